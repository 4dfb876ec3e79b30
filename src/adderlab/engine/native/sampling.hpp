// What the sampler is asked for; sampler.py and steps.py fill it in. J = 10 operand columns.
#pragma once

#include <cstdint>

constexpr int J = 10;

struct Sampling {
    int32_t seeds, batch, max_digits, uniform_lengths, threads;
    int32_t positions, prompt, answers, end_token;  // end_token < 0: the answer has eleven digits
    uint64_t threshold;                             // rows with a smaller word are carry patterns
    int32_t pattern_count, patterns[5];
    int32_t a_position[J], b_position[J];
    const uint64_t* key;        // (S)
    const uint8_t* blank;       // (T) the prompt without digits
    uint8_t *tokens, *targets;  // (S, B, P), (S, B, A)
};
