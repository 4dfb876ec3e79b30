// What a descent step is asked for; engine.py and steps.cpp fill it in.
#pragma once

#include <cstdint>

// Of a seed over all steps of a call; CONSTANTS in engine/step_batch.py.
struct Constants {
    float beta1_rest, beta2, beta2_rest, eps, clip;        // rest: 1 - it
    float slow_keep, slow_rest, strength, average_rest;
};

// Of a seed at one step; RATES in engine/step_batch.py.
struct Rates {
    float lr, correction, scale;  // divisors of the rate and of the root of the square
};

// Null where a recipe has none: slow, average, lr_scale.
struct AdamW {
    int32_t seeds, size;
    float *params, *mean, *square;  // (S, N), updated
    float* slow;                    // (S, N), Grokfast's running mean of the gradient, updated
    float* average;                 // (S, N), running mean of the weights, updated
    float* grad;                    // (S, N), overwritten
    const Rates* rates;             // (S)
    const Constants* constants;     // (S)
    const float* weight_decay;      // (S)
    const float* lr_scale;          // (S, N)
};
