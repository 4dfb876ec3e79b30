// While one lives, this thread takes numbers below 2^-126 for zero, as operands and as results.
//
// A confident model's smallest softmax weights and the moments of weights at rest fall below that,
// and most processors handle such numbers in microcode: training slowed down threefold as it went on.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

class FlushDenormals {
   public:
    FlushDenormals() : before_(get()) { set(before_ | FLUSH); }
    ~FlushDenormals() { set(before_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

   private:
#if defined(__SSE2__)
    static constexpr uint64_t FLUSH = 0x8040;  // MXCSR: results (bit 15) and operands (bit 6)
    static uint64_t get() { return _mm_getcsr(); }
    static void set(uint64_t state) { _mm_setcsr(uint32_t(state)); }
#elif defined(__aarch64__)
    static constexpr uint64_t FLUSH = uint64_t(1) << 24;  // FPCR.FZ: both
    static uint64_t get() {
        uint64_t state;
        asm volatile("mrs %0, fpcr" : "=r"(state));
        return state;
    }
    static void set(uint64_t state) { asm volatile("msr fpcr, %0" ::"r"(state)); }
#else
    static constexpr uint64_t FLUSH = 0;
    static uint64_t get() { return 0; }
    static void set(uint64_t) {}
#endif
    const uint64_t before_;
};
