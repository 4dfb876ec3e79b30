// What the sampler is asked for; engine.py fills it in. Operands have up to MOST columns.
#pragma once

#include <cstdint>

constexpr int MOST = 18;

struct Sampling {
    int32_t seeds, batch, max_digits, uniform_lengths, threads;
    int32_t columns, base;
    int32_t positions, prompt, answers, end_token;  // end_token < 0: the answer has digits alone
    uint64_t threshold;                             // rows with a smaller word are carry patterns
    int32_t pattern_count, patterns[5];
    int32_t a_position[MOST], b_position[MOST];
    int64_t pool;               // pairs of which the rows are drawn; 0: every row is drawn afresh
    const uint64_t* key;        // (S) of the step
    const uint64_t* pool_key;   // (S) of the pool's pairs
    const uint8_t* blank;       // (T) the prompt without digits
    uint8_t *tokens, *targets;  // (S, B, P), (S, B, A)
};
