// One block: W samples, one per lane, with what is looked up for every position.
#pragma once

#include <algorithm>

#include "weights.hpp"

INLINE bool all_equal(const uint8_t (&bytes)[W]) {
    uint8_t first[W];
    std::memset(first, bytes[0], W);
    return std::memcmp(first, bytes, W) == 0;
}

// The first WIDTH bytes of rows start ... start + W - 1, transposed; beyond the last row it is
// repeated. Returns whether every byte is a token; others are replaced by token 0.
template <int WIDTH>
INLINE bool load_bytes(const Samples& from, int start, uint8_t (*to)[W]) {
    constexpr int PADDED = (WIDTH + 15) / 16 * 16;
    alignas(16) uint8_t row[W][PADDED];
    for (int l = 0; l < W; l++) std::memcpy(row[l], from.row(start + l), WIDTH);
    for (int c = 0; c < WIDTH; c += 16) {
        v16b tile[W];
        unroll<W>(EACH(l) { std::memcpy(&tile[l], row[l] + c, 16); });
        transpose_bytes(tile);
        std::memcpy(to[c], tile, std::min(16, WIDTH - c) * W);
    }
    uint8_t bad = 0;
    for (int i = 0; i < WIDTH * W; i++) bad |= (*to)[i] >= V;
    if (bad)
        for (int i = 0; i < WIDTH * W; i++)
            if ((*to)[i] >= V) (*to)[i] = 0;
    return !bad;
}

struct Block {
    alignas(64) uint8_t token[P + 1][W];  // one more than is read: the last answer
    uint8_t target[A][W];
    bool uniform[P];  // all lanes hold the same token
    vf valid;         // 1 in lanes that hold a sample of the batch
    vf kv[P][KV], kv_grad[P][KV];

    template <int WIDTH>
    INLINE bool load_tokens(const Samples& tokens, int start) {
        for (int l = 0; l < W; l++) valid[l] = start + l < tokens.rows ? 1.0f : 0.0f;
        bool good = load_bytes<WIDTH>(tokens, start, token);
        for (int p = 0; p < WIDTH; p++) uniform[p] = all_equal(token[p]);
        return good;
    }
    INLINE bool load_targets(const Samples& targets, int start) {
        return load_bytes<A>(targets, start, target);
    }
    INLINE void look_up_key(const Weights& w, int p) {
        vi index = widen(token[p]);
        for (int n = 0; n < KV; n++) kv[p][n] = lookup(w.kv_row[p][n], index);
    }
    // The token at the query position of a step.
    INLINE const uint8_t* query_token(int step) const { return token[T - 1 + step]; }
};

// Values and slopes of the function that scores are of, kept for the way back.
struct Curve {
    static constexpr int HEADS = CURVED ? H : 1, STEPS = CURVED ? A : 1, KEYS = CURVED ? P : 1;
    typedef vf Rows[STEPS][KEYS];
    Rows value[HEADS], slope[LIMITED ? 1 : HEADS];
};

// What scores of steps step, step + 1, ... of one head are beside queries times keys, in bits, for the
// tokens of a block. ``row``: where in the curve the first of these steps is kept.
struct ScoreParts {
    const float *table, *scale;  // (SCORE_QUERIES, H, P, SCORE_KEYS) of the first step, at the head
    const Block& block;
    vf (*value)[Curve::KEYS], (*slope)[Curve::KEYS];
    int step;
    ScoreParts(const Weights& w, const Block& block, Curve& curve, int step, int h, int row)
        : table(SCORE ? w.score + (step * SCORE_QUERIES * H + h) * P * SCORE_KEYS : nullptr),
          scale(w.score_scale + step * H + h), block(block), value(curve.value[CURVED ? h : 0] + (CURVED ? row : 0)),
          slope(curve.slope[CURVED && !LIMITED ? h : 0] + (CURVED ? row : 0)), step(step) {}
    // Of query j and position p: where to find it in the first step's part of the table.
    INLINE vi place(int j, int p) const {
        vi at = splat_int((j * SCORE_QUERIES * H * P + p) * SCORE_KEYS);
        if constexpr (SCORE_QUERIES > 1) at += widen(block.query_token(step + j)) * (H * P * SCORE_KEYS);
        if constexpr (SCORE_KEYS > 1) at += widen(block.token[p]);
        return at;
    }
    INLINE vf added(int j, int p) const {
        if constexpr (BIASED) return splat(table[j * H * P + p]) * LOG2E;
        else return gather(table, place(j, p)) * LOG2E;
    }
    // From query times key to the score.
    INLINE vf curved(int j, int p, vf x) const {
        vf v, d;
        score_value_and_slope(x, v, d);
        value[j][p] = v;
        if constexpr (!LIMITED) slope[j][p] = d;
        return v * splat(scale[j * H]);
    }
};

// And the way back.
struct ScoreGrad {
    float* sums;
    vf *bias, *scale_sum;
    const float* scale;
    const Block& block;
    const vf (*value)[Curve::KEYS], (*slope)[Curve::KEYS];
    int step;
    ScoreGrad(const Weights& w, Sums& s, const Block& block, const Curve& curve, int step, int h, int row)
        : sums(s.score + (BIASED ? 0 : (step * SCORE_QUERIES * H + h) * P * SCORE_KEYS)),
          bias(s.bias + (BIASED ? (step * H + h) * P : 0)), scale_sum(s.score_scale + step * H + h),
          scale(w.score_scale + step * H + h), block(block), value(curve.value[CURVED ? h : 0] + (CURVED ? row : 0)),
          slope(curve.slope[CURVED && !LIMITED ? h : 0] + (CURVED ? row : 0)), step(step) {}
    // ``x``: d loss / d score of query j and position p.
    INLINE void add(int j, int p, vf x) const {
        if constexpr (BIASED) {
            bias[j * H * P + p] += x;
        } else {
            const uint8_t *query = block.query_token(step + j), *key = block.token[p];
            float* at = sums + (j * SCORE_QUERIES * H * P + p) * SCORE_KEYS;
            for (int l = 0; l < W; l++)
                at[(SCORE_QUERIES > 1 ? query[l] * (H * P * SCORE_KEYS) : 0) + (SCORE_KEYS > 1 ? key[l] : 0)] += x[l];
        }
    }
    // d loss / d (query times key) from that of the score; ``scaled`` adds up the scale's.
    INLINE vf through(int j, int p, vf x, vf& scaled) const {
        vf v = value[j][p];
        scaled += x * v;
        return x * (LIMITED ? slope_of_limited(v) : slope[j][p]) * splat(scale[j * H] * LN2);
    }
    INLINE void add_scale(int j, vf x) const { scale_sum[j * H] += x; }
};
