// Threads that wait between calls. Work is handed out item by item; which thread takes an item has
// no influence on its result.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "denormals.hpp"

class Pool {
   public:
    // The pool of this process. A forked child has none of its parent's threads and makes its own.
    static Pool& get() {
        static std::mutex guard;
        static Pool* pool = nullptr;
        static pid_t owner = 0;
        std::lock_guard<std::mutex> lock(guard);
        if (!pool || owner != getpid()) {
            pool = new Pool;  // never deleted: its threads may outlive every destructor
            owner = getpid();
        }
        return *pool;
    }

    // Calls work(item, worker) for every item in 0 ... items - 1, on up to ``threads`` threads,
    // the calling one (worker 0) included. Several threads of the process may call: who wants no
    // helpers meets nobody, the others wait for their turn.
    void run(int threads, int64_t items, const std::function<void(int64_t, int)>& work) {
        int helpers = int(std::min<int64_t>(threads, items)) - 1;
        if (helpers <= 0) {
            FlushDenormals flush;
            for (int64_t item = 0; item < items; item++) work(item, 0);
            return;
        }
        std::lock_guard<std::mutex> turn(turn_);
        helpers = start(helpers);
        std::unique_lock<std::mutex> lock(mutex_);
        work_ = &work;
        items_ = items;
        next_ = 0;
        invited_ = helpers;
        busy_ = helpers;
        round_++;
        lock.unlock();
        if (helpers) wake_.notify_all();
        take_items(0);
        spin([&] { return busy_ == 0; });
        lock.lock();
        done_.wait(lock, [&] { return busy_ == 0; });
    }

   private:
    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(int64_t, int)>* work_ = nullptr;
    std::atomic<int64_t> next_{0};
    std::atomic<int64_t> round_{0};
    std::atomic<int> busy_{0};
    int64_t items_ = 0;
    int invited_ = 0, started_ = 0;

    // Waits some microseconds awake: sleeping and waking take longer than many a piece of work.
    template <class Condition>
    static void spin(Condition&& met) {
        for (int i = 0; i < 2000 && !met(); i++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
    }

    // Makes sure that ``wanted`` helpers exist; returns how many do (the system may refuse more).
    int start(int wanted) {
        while (started_ < wanted) {
            try {
                std::thread(&Pool::help, this, started_ + 1, round_.load()).detach();
            } catch (const std::system_error&) {
                break;
            }
            started_++;
        }
        return std::min(wanted, started_);
    }

    void take_items(int worker) {
        FlushDenormals flush;
        for (int64_t item; (item = next_.fetch_add(1)) < items_;) (*work_)(item, worker);
    }

    void help(int worker, int64_t seen) {
        for (;;) {
            spin([&] { return round_ != seen; });
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            if (worker > invited_) continue;
            lock.unlock();
            take_items(worker);
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }
};
