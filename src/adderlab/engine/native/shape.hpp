// Sizes derived from those of one table form, and the buffers of one answer step. Whoever includes this
// has written the sizes as constants and what the head keeps (head.py):
//
// A answer steps, P positions, T prompt positions, V vocabulary, H heads, K key and E value dimension,
// R channels of the row; SCORE, SINK: whether there are those tables, SCORE_QUERIES and SCORE_KEYS the
// lengths of the score table's axes of tokens; CURVED: whether scores are a function of queries times keys,
// LIMITED: whether it stays within +-1 and its slope follows from its value; HeadBuffers, HeadWeights, DENSE.
#pragma once

#include "scatter.hpp"

constexpr int TABLE = V <= 16 ? 16 : 32;      // entries of a lookup row, one for each token
static_assert(V <= TABLE);
constexpr int HK = H * K, HE = H * E;
constexpr int KV = HK + HE;                    // features looked up per key
constexpr int QR = HK + R + (SINK ? H : 0);    // features looked up per query: query, row and sinks
constexpr int KV_ROW = row_size(KV), QR_ROW = row_size(QR);
// Scores that no token decides: each is one number for all samples.
constexpr bool BIASED = SCORE && SCORE_QUERIES == 1 && SCORE_KEYS == 1;
constexpr int SCALES = CURVED ? A * H : 0;
constexpr int SCORES = SCORE ? A * SCORE_QUERIES * H * P * SCORE_KEYS : 0;

// Activations of one answer step of one block, kept from the forward to the backward pass.
struct Column : HeadBuffers {
    vf query[HK], mix[HE], inverse_sum[H];
    vf sink_weight[SINK ? H : 1];
    vf cotangent[HE], cotangent_mean[H];  // (d loss / d mix) / sum, and its product with mix
    vf row_grad[QR];                      // d loss / d query row: query, row, sinks
};
constexpr int COLUMN = sizeof(Column) / sizeof(vf);

// From d loss / d mix to what the attention's derivative starts from.
INLINE void set_cotangent(const vf* mix_grad, Column& c) {
    unroll<HE>(EACH(e) { c.cotangent[e] = mix_grad[e] * c.inverse_sum[e / E]; });
    unroll<H>(EACH(h) {
        vf mean = c.cotangent[h * E] * c.mix[h * E];
        unroll<E - 1>(EACH(e) { mean += c.cotangent[h * E + e + 1] * c.mix[h * E + e + 1]; });
        c.cotangent_mean[h] = mean;
    });
}
