// What the kernel is asked for; engine.py and steps.cpp fill it in.
#pragma once

#include <algorithm>
#include <cstdint>

enum Table {
    QUERY, KEY, VALUE, RESIDUAL, ATTN_OUT, NORM2_WEIGHT, NORM2_BIAS, FC1, FC1_BIAS, GATE, FC2, FC2_BIAS,
    NORMF_WEIGHT, NORMF_BIAS, UNEMBED, TABLES
};

// One seed's tokens: ``rows`` samples, ``stride`` bytes apart.
struct Samples {
    const uint8_t* first;
    int64_t stride;
    int rows;
    const uint8_t* row(int i) const { return first + std::min(i, rows - 1) * stride; }
};

struct Request {
    int32_t seeds, batch, threads;
    float eps2, epsf;
    const uint8_t *tokens, *targets;
    int64_t token_seed, target_seed;  // bytes from one seed to the next; 0 when shared
    int64_t token_row, target_row;    // bytes from one sample to the next
    const float* table[TABLES];       // (S, ...), null where the form has none
    float* grad[TABLES];
    float* loss;       // (S)
    float* margins;    // (S, B, A)
    uint8_t* answers;  // (S, B, A)

    Samples tokens_of(int seed) const { return {tokens + seed * token_seed, token_row, batch}; }
    Samples targets_of(int seed) const { return {targets + seed * target_seed, target_row, batch}; }
};
