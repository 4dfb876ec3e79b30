// Attention of QB consecutive answer steps over the keys of one block, and its derivative.
//
// Scores are in bits (log2 e is folded into the queries). When no score can leave +-60 bits, the
// exponentials are taken as they are; otherwise the largest score is subtracted first. A score of minus
// infinity hides its key.
#pragma once

#include "block.hpp"
#include "functions.hpp"

// Queries handled together: keys, values and their gradients are then loaded and stored once for all.
constexpr int query_block() {
    for (int n = 4; n > 1; n--)
        if (n * K + 2 * (K + E) + 4 <= REGISTERS) return n;
    return 1;
}

// Calls body(position, first) for every key position, where the queries first, ..., QB - 1 see it:
// query j sees keys + j positions.
template <int QB, class Body>
INLINE void each_key(int keys, Body&& body) {
    for (int p = 0; p < keys; p++) body(p, std::integral_constant<int, 0>{});
    unroll<QB - 1>(EACH(j) { body(keys + j, std::integral_constant<int, j + 1>{}); });
}

// weight[j][p] = 2^score, column[j].mix = softmax-weighted value, column[j].inverse_sum = 1 / sum.
template <bool SHIFT, int QB>
INLINE void attend(const vf (*kv)[KV], int keys, int h, Column* column, vf (*weight)[P], ScoreParts parts) {
    vf query[QB][K], top[QB], sum[QB], mix[QB][E];
    unroll<QB>(EACH(j) {
        unroll<K>(EACH(k) { query[j][k] = column[j].query[h * K + k]; });
        top[j] = SINK ? column[j].sink_weight[h] : splat(-3e38f);
        sum[j] = vf{};
        unroll<E>(EACH(e) { mix[j][e] = vf{}; });
    });
    auto score = [&](int p, auto j) __attribute__((always_inline)) {
        const vf* key = kv[p] + h * K;
        vf s{};
        if constexpr (K > 0) s = query[j][0] * key[0];
        if constexpr (K > 1) unroll<K - 1>(EACH(k) { s += query[j][k + 1] * key[k + 1]; });
        if constexpr (CURVED) s = parts.curved(j, p, s);
        if constexpr (SCORE) s += parts.added(j, p);
        return s;
    };
    if constexpr (SHIFT)
        each_key<QB>(keys, [&](int p, auto first) __attribute__((always_inline)) {
            unroll<QB - first>(EACH(i) {
                constexpr std::integral_constant<int, first + i> j;
                top[j] = larger(top[j], weight[j][p] = score(p, j));
            });
        });
    each_key<QB>(keys, [&](int p, auto first) __attribute__((always_inline)) {
        const vf* value = kv[p] + H * K + h * E;
        unroll<QB - first>(EACH(i) {
            constexpr std::integral_constant<int, first + i> j;
            vf w;
            if constexpr (SHIFT) w = exp2_clamped(weight[j][p] - top[j]);
            else w = exp2_in_range(score(p, j));
            if constexpr (SCORE && SHIFT) w = select(weight[j][p] < -3e38f, vf{}, w);
            weight[j][p] = w;
            sum[j] += w;
            unroll<E>(EACH(e) { mix[j][e] += w * value[e]; });
        });
    });
    unroll<QB>(EACH(j) {
        if constexpr (SINK) sum[j] += column[j].sink_weight[h] = exp2_clamped(column[j].sink_weight[h] - top[j]);
        vf inverse = 1.0f / sum[j];
        column[j].inverse_sum[h] = inverse;
        unroll<E>(EACH(e) { column[j].mix[h * E + e] = mix[j][e] * inverse; });
    });
}

// Given cotangent = (d loss / d mix) / sum in every column: query_grad, and kv_grad, which is
// overwritten when FRESH and added to otherwise.
template <bool FRESH, int QB>
INLINE void attend_back(const vf (*kv)[KV], vf (*kv_grad)[KV], int keys, int h, Column* column,
                        const vf (*weight)[P], ScoreGrad parts) {
    vf query_grad[QB][K], scaled[QB];
    unroll<QB>(EACH(j) { unroll<K>(EACH(k) { query_grad[j][k] = vf{}; }); });
    unroll<QB>(EACH(j) { scaled[j] = vf{}; });
    each_key<QB>(keys, [&](int p, auto first) __attribute__((always_inline)) {
        const vf *key = kv[p] + h * K, *value = kv[p] + H * K + h * E;
        vf *key_sum = kv_grad[p] + h * K, *value_sum = kv_grad[p] + H * K + h * E;
        vf key_grad[K], value_grad[E];
        unroll<K>(EACH(k) { key_grad[k] = FRESH ? vf{} : key_sum[k]; });
        unroll<E>(EACH(e) { value_grad[e] = FRESH ? vf{} : value_sum[e]; });
        vf key_[K], value_[E];
        unroll<K>(EACH(k) { key_[k] = keep(key[k]); });
        unroll<E>(EACH(e) { value_[e] = keep(value[e]); });
        unroll<QB - first>(EACH(i) {
            constexpr std::integral_constant<int, first + i> j;
            vf w = keep(weight[j][p]), cotangent[E];
            unroll<E>(EACH(e) { cotangent[e] = keep(column[j].cotangent[h * E + e]); });
            vf slope = cotangent[0] * value_[0] - column[j].cotangent_mean[h];
            unroll<E - 1>(EACH(e) { slope += cotangent[e + 1] * value_[e + 1]; });
            slope *= w;
            if constexpr (SCORE) parts.add(j, p, slope);
            if constexpr (CURVED) slope = parts.through(j, p, slope, scaled[j]);
            unroll<K>(EACH(k) {
                key_grad[k] += slope * column[j].query[h * K + k];
                query_grad[j][k] += slope * key_[k];
            });
            unroll<E>(EACH(e) { value_grad[e] += w * cotangent[e]; });
        });
        unroll<K>(EACH(k) { key_sum[k] = key_grad[k]; });
        unroll<E>(EACH(e) { value_sum[e] = value_grad[e]; });
    });
    unroll<QB>(EACH(j) {
        unroll<K>(EACH(k) { column[j].row_grad[h * K + k] = query_grad[j][k]; });
        if constexpr (CURVED) parts.add_scale(j, scaled[j]);
        if constexpr (SINK)
            column[j].row_grad[HK + R + h] = -column[j].sink_weight[h] * column[j].cotangent_mean[h];
    });
}
