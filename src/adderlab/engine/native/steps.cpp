// Many steps of a population in one call: pairs, tables, gradient, AdamW, seed by seed.
//
// A step is some microseconds of work between the kernel's calls, and there is nothing to wait for
// from seed to seed: so a thread takes a seed and does all its steps. The parts are those that
// single steps use, handed over as function pointers; the bits are the same.

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "adamw.hpp"
#include "denormals.hpp"
#include "pool.hpp"
#include "request.hpp"
#include "sampling.hpp"

struct Steps {
    int32_t seeds, count, settings, threads;
    int32_t size, params, tables;  // N; pieces of the flat parameters; tables of the form
    int64_t first;                 // number of the first step
    const int64_t* param_offset;   // (params) where each piece begins
    const int64_t* table_size;     // (tables) numbers in each table
    const int32_t* table_index;    // (tables) which of the kernel's tables it is
    const int64_t* seed;           // (S)
    const int32_t* max_digits;     // (count)
    const uint64_t* threshold;     // (count)
    const int32_t* setting;       // (S), which settings are the seed's
    const Rates* rates;           // (count, settings)
    const Constants* constants;   // (settings)
    const float* lr_scale;        // (settings, N), or null
    float* loss;                  // (S), of the last step
    Sampling sampling;
    Request request;
    AdamW adamw;  // its tensors of S rows; what a seed is given at a step is filled in there

    void (*sample)(const Sampling*, int64_t);
    uint64_t (*train_key)(uint64_t, uint64_t);
    void (*map)(const float* const*, float* const*);
    void (*vjp)(const float* const*, float* const*);
    int (*train_seed)(const Request*, void*);
    int (*train_threads)(const Request*);  // one seed, its batch spread over threads
    void* (*new_workspace)();
    void (*delete_workspace)(void*);
    void (*descend_seed)(const AdamW*, float*);
};

namespace {

// Buffers of one thread, and the requests that point into them.
class Worker {
   public:
    Worker(const Steps& s, bool shares_threads)
        : s_(s), workspace_(shares_threads ? nullptr : s.new_workspace(), s.delete_workspace),
          grad_(s.size), work_(s.size), tokens_(int64_t(s.request.batch) * s.sampling.positions),
          targets_(int64_t(s.request.batch) * s.sampling.answers) {
        if (!shares_threads && !workspace_) throw std::bad_alloc();
        int64_t total = 0;
        for (int t = 0; t < s.tables; t++) total += s.table_size[t];
        table_.resize(2 * total);
        request_ = s.request;
        table_at_.resize(s.request.tables);
        grad_at_.resize(s.request.tables);
        inputs_.resize(s.params);
        float* next = table_.data();
        for (int t = 0; t < s.tables; t++, next += s.table_size[t - 1]) {
            tables_.push_back(next);
            inputs_.push_back(next + total);
            table_at_[s.table_index[t]] = next;
            grad_at_[s.table_index[t]] = next + total;
        }
        request_.table = table_at_.data();
        request_.grad = grad_at_.data();
        for (int i = 0; i < s.params; i++) grads_.push_back(grad_.data() + s.param_offset[i]);
        request_.tokens = tokens_.data();
        request_.targets = targets_.data();
        request_.loss = &loss_;
        sampling_ = s.sampling;
        sampling_.tokens = tokens_.data();
        sampling_.targets = targets_.data();
        sampling_.key = &key_;
    }

    // All steps of one seed; false if some token was outside the vocabulary.
    bool run(int seed) {
        const int64_t offset = int64_t(seed) * s_.size;
        const int setting = s_.setting[seed];
        AdamW adamw = s_.adamw;
        for (float** each : {&adamw.params, &adamw.mean, &adamw.square, &adamw.slow, &adamw.average})
            if (*each) *each += offset;
        adamw.grad = grad_.data();
        adamw.constants = s_.constants + setting;
        adamw.weight_decay += seed;
        adamw.lr_scale = s_.lr_scale ? s_.lr_scale + int64_t(setting) * s_.size : nullptr;
        for (int i = 0; i < s_.params; i++) inputs_[i] = adamw.params + s_.param_offset[i];
        for (int i = 0; i < s_.count; i++) {
            key_ = s_.train_key(s_.seed[seed], s_.first + i);
            sampling_.pool_key = s_.sampling.pool_key + seed;
            sampling_.max_digits = s_.max_digits[i];
            sampling_.threshold = s_.threshold[i];
            s_.sample(&sampling_, 0);
            s_.map(inputs_.data(), tables_.data());
            int status = workspace_ ? s_.train_seed(&request_, workspace_.get()) : s_.train_threads(&request_);
            if (status) return false;
            s_.vjp(inputs_.data(), grads_.data());
            adamw.rates = s_.rates + int64_t(i) * s_.settings + setting;
            s_.descend_seed(&adamw, work_.data());
        }
        s_.loss[seed] = loss_;
        return true;
    }

   private:
    const Steps& s_;
    std::unique_ptr<void, void (*)(void*)> workspace_;
    std::vector<float> grad_, work_, table_;
    std::vector<uint8_t> tokens_, targets_;
    std::vector<const float*> inputs_;  // parameters, then table gradients
    std::vector<float*> tables_, grads_;
    std::vector<const float*> table_at_;  // by the kernel's numbers of the tables
    std::vector<float*> grad_at_;
    Request request_;
    Sampling sampling_;
    uint64_t key_ = 0;
    float loss_ = 0.0f;
};

bool run(const Steps& s) {
    // Fewer seeds than threads: one after another, each batch spread over the threads.
    if (s.seeds < s.threads) {
        FlushDenormals flush;  // as the pool's threads do: what runs between two calls of the kernel
        Worker worker(s, true);
        for (int seed = 0; seed < s.seeds; seed++)
            if (!worker.run(seed)) return false;
        return true;
    }
    std::vector<std::unique_ptr<Worker>> workers;
    for (int i = 0; i < s.threads; i++) workers.emplace_back(new Worker(s, false));
    std::atomic<bool> good{true};
    Pool::get().run(s.threads, s.seeds, [&](int64_t seed, int worker) {
        if (!workers[worker]->run(int(seed))) good = false;
    });
    return good;
}

}  // namespace

extern "C" int adderlab_steps_size() { return sizeof(Steps); }

// 0: done. 1: a token outside the vocabulary. 2: out of memory.
extern "C" int adderlab_steps(const Steps* steps) {
    try {
        return run(*steps) ? 0 : 1;
    } catch (const std::bad_alloc&) {
        return 2;
    }
}
