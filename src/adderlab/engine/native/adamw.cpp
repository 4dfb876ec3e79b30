// One AdamW step of every seed: the operations of adderlab.training.optimizer in the same order, each
// rounded on its own (compiled without contraction into fused operations).

#include <cmath>
#include <vector>

#include "adamw.hpp"
#include "denormals.hpp"

// The upper half is added to the lower until one entry is left. Overwrites x.
static float halving_sum(float* x, int n) {
    while (n > 1) {
        int half = (n + 1) / 2;
        for (int i = 0; i < n - half; i++) x[i] += x[half + i];
        n = half;
    }
    return x[0];
}

static void step(const AdamW& a, int seed, float* work) {
    const int64_t offset = int64_t(seed) * a.size;
    float *params = a.params + offset, *mean = a.mean + offset, *square = a.square + offset;
    const float* grad = a.grad + offset;
    for (int i = 0; i < a.size; i++) work[i] = grad[i] * grad[i];
    float norm = std::sqrt(halving_sum(work, a.size));
    float shrink = a.clip[seed] / (norm + 1e-6f);
    if (shrink > 1.0f) shrink = 1.0f;
    const float decay = a.lr[seed] * a.weight_decay[seed], rate = a.lr[seed] / a.correction;
    for (int i = 0; i < a.size; i++) {
        float own = a.lr_scale ? a.lr_scale[i] : 1.0f;
        float g = grad[i] * shrink;
        float p = params[i] * (1.0f - decay * own);
        float m = mean[i] + (g - mean[i]) * a.beta1_rest;
        float v = square[i] * a.beta2 + g * g * a.beta2_rest;
        params[i] = p - rate * own * (m / (std::sqrt(v) / a.scale + a.eps));
        mean[i] = m;
        square[i] = v;
    }
}

extern "C" void adderlab_adamw(const AdamW* a) {
    FlushDenormals flush;
    std::vector<float> work(a->size);
    for (int seed = 0; seed < a->seeds; seed++) step(*a, seed, work.data());
}

// The first seed's step, between what Grokfast adds to its gradient (overwritten) and the average.
// ``work`` holds N numbers.
extern "C" void adderlab_adamw_seed(const AdamW* a, const Running* r, float* grad, float* work) {
    if (r->slow)
        for (int i = 0; i < a->size; i++) {
            float kept = r->slow[i] * r->slow_keep;
            r->slow[i] = kept + grad[i] * r->slow_rest;
            grad[i] = grad[i] + r->slow[i] * r->strength;
        }
    step(*a, 0, work);
    if (r->average)
        for (int i = 0; i < a->size; i++) r->average[i] += (a->params[i] - r->average[i]) * r->average_rest;
}
