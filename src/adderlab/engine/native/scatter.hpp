// Adds the features of W samples to W rows of a small table, one row per sample, chosen by token.
//
// The vectors are transposed so that a sample's features form short rows in memory; then each row
// is one load, add and store. Cheaper than a masked add per token when the vocabulary is ten.
#pragma once

#include "simd.hpp"

typedef float v8f __attribute__((vector_size(32)));

// Floats in a row that holds N features.
constexpr int row_size(int N) { return (N + 7) / 8 * 8; }

// Sample 4 * quarter + j of both halves, features 0-3 from a and 4-7 from b.
template <int QUARTER>
struct JoinQuarters {
    static constexpr int at(int l) {
        if (W == 4) return l;
        return l % 8 < 4 ? 4 * QUARTER + l % 4 : W + 4 * QUARTER + l % 4;
    }
};

INLINE v8f first_eight(vf x) {
    v8f result;
    std::memcpy(&result, &x, sizeof(vf) < sizeof result ? sizeof(vf) : sizeof result);
    return result;
}

template <int QUARTER>
INLINE v8f sample_row(vf a, vf b) {
    if constexpr (W == 4) {
        v8f result;
        std::memcpy(&result, &a, 16);
        std::memcpy((char*)&result + 16, &b, 16);
        return result;
    } else {
        return first_eight(shuffle<JoinQuarters<QUARTER>>(a, b));
    }
}

// rows[token[l] * row_size(N) + f] += x[f][l] for every feature f and sample l. ``uniform``: all
// samples hold the same token.
template <int N>
INLINE void scatter_add(const vf* x, const uint8_t* token, bool uniform, float* rows) {
    unroll<(N + 7) / 8>(EACH(group) {
        vf low[4], high[4], a[4], b[4];
        unroll<4>(EACH(f) {
            low[f] = 8 * group + f < N ? x[8 * group + f] : vf{};
            high[f] = 8 * group + 4 + f < N ? x[8 * group + 4 + f] : vf{};
        });
        transpose_quarters(low, a);
        if constexpr (8 * group + 4 < N) transpose_quarters(high, b);
        else unroll<4>(EACH(j) { b[j] = vf{}; });
        float* base = rows + 8 * group;
        if (uniform) {
            v8f sum{};
            unroll<W / 4>(EACH(q) {
                sum += (sample_row<q>(a[0], b[0]) + sample_row<q>(a[1], b[1])) +
                       (sample_row<q>(a[2], b[2]) + sample_row<q>(a[3], b[3]));
            });
            *(v8f*)(base + size_t(token[0]) * row_size(N)) += sum;
        } else {
            unroll<W / 4>(EACH(q) {
                unroll<4>(EACH(j) {
                    *(v8f*)(base + size_t(token[4 * q + j]) * row_size(N)) += sample_row<q>(a[j], b[j]);
                });
            });
        }
    });
}
