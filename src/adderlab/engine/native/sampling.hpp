// What the sampler is asked for; steps.py fills it in. Operands have up to MOST columns.
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
    const uint64_t* key;        // (S)
    const uint8_t* blank;       // (T) the prompt without digits
    uint8_t *tokens, *targets;  // (S, B, P), (S, B, A)
};
