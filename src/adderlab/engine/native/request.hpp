// What the kernel is asked for; engine.py and steps.cpp fill it in.
#pragma once

#include <algorithm>
#include <cstdint>

// The first tables, in the order of models.tables.ATTENTION; the head's constants follow.
enum Table { QUERY, KEY, SCORE_TABLE, VALUE, RESIDUAL, SINK_TABLE, SCALE_TABLE, CONSTANTS };

// One seed's tokens: ``rows`` samples, ``stride`` bytes apart.
struct Samples {
    const uint8_t* first;
    int64_t stride;
    int rows;
    const uint8_t* row(int i) const { return first + std::min(i, rows - 1) * stride; }
};

struct Request {
    int32_t seeds, batch, threads, tables;
    const uint8_t *tokens, *targets;
    int64_t token_seed, target_seed;  // bytes from one seed to the next; 0 when shared
    int64_t token_row, target_row;    // bytes from one sample to the next
    const float* const* table;        // (tables) of (S, ...), null where there is none
    float* const* grad;
    float* loss;       // (S)
    float* margins;    // (S, B, A)
    uint8_t* answers;  // (S, B, A)

    Samples tokens_of(int seed) const { return {tokens + seed * token_seed, token_row, batch}; }
    Samples targets_of(int seed) const { return {targets + seed * target_seed, target_row, batch}; }
};
