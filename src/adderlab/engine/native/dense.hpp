// Small dense products on vectors of samples: y = x W, and the weight gradient sum x^T y.
#pragma once

#include "simd.hpp"

// y[n] = start(n) + sum_m x[m] * w[m * N + n], handed to sink(n, y[n]) tile by tile.
template <int M, int N, int TILE, class Start, class Sink>
INLINE void product_tile(const vf* x, const float* w, int base, Start&& start, Sink&& sink) {
    vf y[TILE];
    unroll<TILE>(EACH(n) { y[n] = start(base + n); });
    const float* row = w + base;
    for (int m = 0; m < M; m++, row += N) {
        vf xm = x[m];
        unroll<TILE>(EACH(n) { y[n] += xm * row[n]; });
    }
    unroll<TILE>(EACH(n) { sink(base + n, y[n]); });
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <int M, int N, class Start, class Sink>
INLINE void product(const vf* x, const float* w, Start&& start, Sink&& sink) {
    constexpr int LIMIT = REGISTERS == 32 ? 16 : 8;
    constexpr int TILES = ceil_div(N, LIMIT);
    constexpr int TILE = ceil_div(N, TILES);
    constexpr int FULL = N / TILE;
    constexpr int REST = N % TILE;
    for (int tile = 0; tile < FULL; tile++) product_tile<M, N, TILE>(x, w, tile * TILE, start, sink);
    if constexpr (REST > 0) product_tile<M, N, REST>(x, w, FULL * TILE, start, sink);
}

// sum[m * N + n] += sum over columns c of x_c[m] * y_c[n]. Columns lie ``stride`` vectors apart.
template <int N, int TM, int TN>
INLINE void outer_tile(int columns, int stride, const vf* x, const vf* y, vf* sum) {
    vf total[TM * TN];
    unroll<TM>(EACH(m) { unroll<TN>(EACH(n) { total[m * TN + n] = sum[m * N + n]; }); });
    for (int c = 0; c < columns; c++, x += stride, y += stride) {
        vf yn[TN];
        unroll<TN>(EACH(n) { yn[n] = keep(y[n]); });
        unroll<TM>(EACH(m) {
            vf xm = keep(x[m]);
            unroll<TN>(EACH(n) { total[m * TN + n] += xm * yn[n]; });
        });
    }
    unroll<TM>(EACH(m) { unroll<TN>(EACH(n) { sum[m * N + n] = total[m * TN + n]; }); });
}

// The tile that fits the registers and loads least.
struct TileShape {
    int m, n;
};
constexpr TileShape best_tile(int M, int N) {
    TileShape best{1, 1};
    int best_loads = 1 << 30;
    for (int m = 1; m <= M; m++)
        for (int n = 1; n <= N; n++) {
            int loads = ceil_div(N, n) * M + ceil_div(M, m) * N;
            if (m * n + n + 2 <= REGISTERS && loads < best_loads) {
                best = {m, n};
                best_loads = loads;
            }
        }
    return best;
}

template <int M, int N>
INLINE void outer(int columns, int stride, const vf* x, const vf* y, vf* sum) {
    constexpr int TM = best_tile(M, N).m, TN = best_tile(M, N).n;
    constexpr int REST_M = M % TM, REST_N = N % TN;
    int m = 0;
    for (; m + TM <= M; m += TM) {
        int n = 0;
        for (; n + TN <= N; n += TN) outer_tile<N, TM, TN>(columns, stride, x + m, y + n, sum + m * N + n);
        if constexpr (REST_N > 0)
            outer_tile<N, TM, REST_N>(columns, stride, x + m, y + n, sum + m * N + n);
    }
    if constexpr (REST_M > 0) {
        int n = 0;
        for (; n + TN <= N; n += TN)
            outer_tile<N, REST_M, TN>(columns, stride, x + m, y + n, sum + m * N + n);
        if constexpr (REST_N > 0)
            outer_tile<N, REST_M, REST_N>(columns, stride, x + m, y + n, sum + m * N + n);
    }
}

template <int N>
INLINE void add_columns(int columns, int stride, const vf* y, vf* sum) {
    for (int n = 0; n < N; n++) {
        vf total = sum[n];
        for (int c = 0; c < columns; c++) total += y[c * stride + n];
        sum[n] = total;
    }
}
