// What AdamW is asked for; adamw.py and steps.cpp fill it in.
#pragma once

#include <cstdint>

struct AdamW {
    int32_t seeds, size;
    float beta1_rest, beta2, beta2_rest, eps;  // rest: 1 - beta
    float correction, scale;                   // divisors of the rate and of the root of the square
    float *params, *mean, *square;             // (S, N), updated
    const float* grad;                         // (S, N)
    const float *lr, *weight_decay, *clip;     // (S)
    const float* lr_scale;                     // (N), or null
};

// Slow gradients and averaged weights around a step; null where a recipe has none.
struct Running {
    float* slow;  // (N), Grokfast's running mean of the gradient, updated
    float slow_keep, slow_rest, strength;
    float* average;  // (N), running mean of the weights, updated
    float average_rest;
};
