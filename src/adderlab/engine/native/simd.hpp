// Vectors of W samples: lane l of every vector belongs to sample l of the block.
//
// GCC and Clang vector types serve all processors alike; the few operations they lack (table
// lookup, reciprocal square root) are written out per instruction set, with a plain loop as the
// last resort. W = 16 on AVX-512, 8 on AVX2, 4 elsewhere.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int REGISTERS = 16;
#else
constexpr int W = 4;
constexpr int REGISTERS = 16;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint8_t vbytes __attribute__((vector_size(W)));
typedef float v4f __attribute__((vector_size(16)));

// Calls f(0), ..., f(N - 1) with compile-time constants, so that arrays indexed by them live in
// registers.
template <class F, int... I>
INLINE void unroll_each(F&& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
INLINE void unroll(F&& f) {
    unroll_each(f, std::make_integer_sequence<int, N>{});
}
#define EACH(i) [&](auto i) __attribute__((always_inline))

INLINE vf splat(float x) { return x - vf{}; }
INLINE vi splat_int(int32_t x) { return x - vi{}; }

// Keeps x in a register: without it the compiler may load the same memory again at every use.
INLINE vf keep(vf x) {
#if defined(__AVX2__)
    asm("" : "+v"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#endif
    return x;
}

INLINE vi lanes() {
    vi result{};
    for (int l = 0; l < W; l++) result[l] = l;
    return result;
}

INLINE vf select(vi mask, vf yes, vf no) {
#if defined(__clang__)
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
#else
    return mask ? yes : no;
#endif
}

// Where either is not a number the result is b: the argument that must not lose one comes second.
INLINE vf larger(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__aarch64__)
    return vmaxq_f32(a, b);
#else
    return select(a > b, a, b);
#endif
}

INLINE vf smaller(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#elif defined(__aarch64__)
    return vminq_f32(a, b);
#else
    return select(a < b, a, b);
#endif
}

INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }

// table[index] in every lane, of 16 entries; ``table`` is aligned to 64 bytes.
INLINE vf lookup(const float (&table)[16], vi index) {
#if defined(__AVX512F__)
    return _mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(table));
#elif defined(__AVX2__)
    __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)index);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), (__m256i)index);
    return _mm256_blendv_ps(low, high, (__m256)(index << 28));
#elif defined(__aarch64__)
    uint8x16x4_t bytes = vld1q_u8_x4((const uint8_t*)table);
    vi first = (index & 15) * 0x04040404 + 0x03020100;
    return (vf)vqtbl4q_u8(bytes, (uint8x16_t)first);
#else
    vf result;
    for (int l = 0; l < W; l++) result[l] = table[index[l] & 15];
    return result;
#endif
}

// The same of 32 entries.
INLINE vf lookup(const float (&table)[32], vi index) {
#if defined(__AVX512F__)
    return (vf)_mm512_permutex2var_ps(_mm512_load_ps(table), (__m512i)index, _mm512_load_ps(table + 16));
#else
    const auto& low = (const float (&)[16])table;
    const auto& high = *(const float (*)[16])(table + 16);
#if defined(__AVX2__)
    // Bit 4 of the index, moved to the sign, chooses.
    return _mm256_blendv_ps((__m256)lookup(low, index), (__m256)lookup(high, index), (__m256)(index << 27));
#else
    return select(index > 15, lookup(high, index), lookup(low, index));
#endif
#endif
}

INLINE vf inverse_sqrt(vf x) {
#if defined(__AVX512F__)
    // 14 bits, then one Newton step: 28 bits, more than a float holds.
    vf y = _mm512_rsqrt14_ps(x);
    vf half = 0.5f * y;
    return y + half * (1.0f - x * y * y);
#elif defined(__AVX2__)
    return 1.0f / (vf)_mm256_sqrt_ps(x);
#elif defined(__aarch64__)
    return 1.0f / (vf)vsqrtq_f32(x);
#else
    vf result;
    for (int l = 0; l < W; l++) result[l] = 1.0f / __builtin_sqrtf(x[l]);
    return result;
#endif
}

INLINE vf square_root(vf x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__aarch64__)
    return vsqrtq_f32(x);
#else
    vf result;
    for (int l = 0; l < W; l++) result[l] = __builtin_sqrtf(x[l]);
    return result;
#endif
}

// table[index] in every lane, the table being as large as it likes.
INLINE vf gather(const float* table, vi index) {
#if defined(__AVX512F__)
    return _mm512_i32gather_ps((__m512i)index, table, 4);
#elif defined(__AVX2__)
    return _mm256_i32gather_ps(table, (__m256i)index, 4);
#else
    vf result;
    for (int l = 0; l < W; l++) result[l] = table[index[l]];
    return result;
#endif
}

INLINE vi widen(const uint8_t* bytes) {
#if defined(__AVX512F__)
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)bytes));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
#else
    vbytes packed;
    std::memcpy(&packed, bytes, W);
    return __builtin_convertvector(packed, vi);
#endif
}

// Lane l of the result is lane Pick::at(l) of (a, b) joined.
template <class Pick, int... L>
INLINE vf shuffle_lanes(vf a, vf b, std::integer_sequence<int, L...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Pick::at(L)...);
#else
    return __builtin_shuffle(a, b, (vi){Pick::at(L)...});
#endif
}
template <class Pick>
INLINE vf shuffle(vf a, vf b) {
    return shuffle_lanes<Pick>(a, b, std::make_integer_sequence<int, W>{});
}

// x[0] ... x[N - 1] joined pairwise, in a tree: short waiting times, small rounding errors.
template <int N, class Join>
INLINE vf reduce(const vf* x, Join&& join) {
    if constexpr (N == 1) return x[0];
    else return join(reduce<(N + 1) / 2>(x, join), reduce<N / 2>(x + (N + 1) / 2, join));
}
template <int N>
INLINE vf sum(const vf* x) {
    return reduce<N>(x, [](vf a, vf b) { return a + b; });
}

// Interleave groups of SIZE lanes of a and b inside every 128-bit quarter; HIGH takes its upper half.
template <int SIZE, int HIGH>
struct Interleave {
    static constexpr int at(int l) {
        int quarter = l / 4, j = l % 4;
        int group = j / SIZE, within = j % SIZE;
        return (group % 2 ? W : 0) + 4 * quarter + 2 * HIGH + SIZE * (group / 2) + within;
    }
};

// Four features of W samples -> for j = 0..3 the features of samples j, 4 + j, 8 + j, ...
INLINE void transpose_quarters(const vf (&x)[4], vf (&out)[4]) {
    vf low01 = shuffle<Interleave<1, 0>>(x[0], x[1]), high01 = shuffle<Interleave<1, 1>>(x[0], x[1]);
    vf low23 = shuffle<Interleave<1, 0>>(x[2], x[3]), high23 = shuffle<Interleave<1, 1>>(x[2], x[3]);
    out[0] = shuffle<Interleave<2, 0>>(low01, low23);
    out[1] = shuffle<Interleave<2, 1>>(low01, low23);
    out[2] = shuffle<Interleave<2, 0>>(high01, high23);
    out[3] = shuffle<Interleave<2, 1>>(high01, high23);
}

INLINE double lane_sum(vf x) {
    typedef double v4d __attribute__((vector_size(32)));
    v4d sum{};
    unroll<W / 4>(EACH(q) {
        v4f quarter;
        std::memcpy(&quarter, (const char*)&x + 16 * q, 16);
        sum += __builtin_convertvector(quarter, v4d);
    });
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

typedef uint8_t v16b __attribute__((vector_size(16)));

template <int HALF>
struct InterleaveBytes {
    static constexpr int at(int i) { return 8 * HALF + i / 2 + (i % 2 ? 16 : 0); }
};
template <class Pick, int... I>
INLINE v16b shuffle_bytes(v16b a, v16b b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Pick::at(I)...);
#else
    return __builtin_shuffle(a, b, (v16b){uint8_t(Pick::at(I))...});
#endif
}

// W rows of 16 bytes -> 16 rows of W bytes. Each round deals the two halves of all bytes
// alternately, which moves one bit of the row number behind the column number.
INLINE void transpose_bytes(v16b (&row)[W]) {
    using All = std::make_integer_sequence<int, 16>;
    for (int bit = 1; bit < W; bit *= 2) {
        v16b next[W];
        unroll<W / 2>(EACH(i) {
            next[2 * i] = shuffle_bytes<InterleaveBytes<0>>(row[i], row[i + W / 2], All{});
            next[2 * i + 1] = shuffle_bytes<InterleaveBytes<1>>(row[i], row[i + W / 2], All{});
        });
        unroll<W>(EACH(i) { row[i] = next[i]; });
    }
}
