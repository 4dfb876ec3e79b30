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

// What is added to the scores of steps step, step + 1, ... of one head, in bits, for the tokens of a block.
struct ExtraScore {
    const float* table;  // (V, H, P, V) of the first step, at the head
    const Block& block;
    int step;
    ExtraScore(const Weights& w, const Block& block, int step, int h)
        : table(SCORE ? w.score + (step * V * H + h) * P * V : nullptr), block(block), step(step) {}
    // Of query j and position p: where to find it in the first step's part of the table.
    INLINE vi place(int j, int p) const {
        return widen(block.query_token(step + j)) * (H * P * V) + widen(block.token[p]) + (j * V * H * P + p) * V;
    }
    INLINE vf operator()(int j, int p) const { return gather(table, place(j, p)) * LOG2E; }
};

// And the way back.
struct ScoreGrad {
    float* sums;
    const Block& block;
    int step;
    ScoreGrad(float* sums, const Block& block, int step, int h)
        : sums(SCORE ? sums + (step * V * H + h) * P * V : nullptr), block(block), step(step) {}
    INLINE void add(int j, int p, vf slope) const {
        const uint8_t *query = block.query_token(step + j), *key = block.token[p];
        float* at = sums + (j * V * H * P + p) * V;
        for (int l = 0; l < W; l++) at[query[l] * (H * P * V) + key[l]] += slope[l];
    }
};
