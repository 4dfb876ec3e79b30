// One descent step of every seed: the operations of adderlab.engine.step_batch in the same order, each
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

static void clipped_step(const AdamW& a, float* work) {
    const Constants c = *a.constants;
    const Rates r = *a.rates;
    const float* grad = a.grad;
    for (int i = 0; i < a.size; i++) work[i] = grad[i] * grad[i];
    float norm = std::sqrt(halving_sum(work, a.size));
    float shrink = c.clip / (norm + 1e-6f);
    if (shrink > 1.0f) shrink = 1.0f;
    const float decay = r.lr * *a.weight_decay, rate = r.lr / r.correction;
    for (int i = 0; i < a.size; i++) {
        float own = a.lr_scale ? a.lr_scale[i] : 1.0f;
        float g = grad[i] * shrink;
        float p = a.params[i] * (1.0f - decay * own);
        float m = a.mean[i] + (g - a.mean[i]) * c.beta1_rest;
        float v = a.square[i] * c.beta2 + g * g * c.beta2_rest;
        a.params[i] = p - rate * own * (m / (std::sqrt(v) / r.scale + c.eps));
        a.mean[i] = m;
        a.square[i] = v;
    }
}

// The first seed's step. ``work`` holds N numbers.
extern "C" void adderlab_descend_seed(const AdamW* a, float* work) {
    const Constants c = *a->constants;
    if (a->slow)
        for (int i = 0; i < a->size; i++) {
            float kept = a->slow[i] * c.slow_keep;
            a->slow[i] = kept + a->grad[i] * c.slow_rest;
            a->grad[i] = a->grad[i] + a->slow[i] * c.strength;
        }
    clipped_step(*a, work);
    if (a->average)
        for (int i = 0; i < a->size; i++) a->average[i] += (a->params[i] - a->average[i]) * c.average_rest;
}

extern "C" void adderlab_descend(const AdamW* all) {
    FlushDenormals flush;
    std::vector<float> work(all->size);
    AdamW a = *all;
    for (int seed = 0; seed < all->seeds; seed++) {
        adderlab_descend_seed(&a, work.data());
        for (float** each : {&a.params, &a.mean, &a.square, &a.slow, &a.average, &a.grad})
            if (*each) *each += a.size;
        if (a.lr_scale) a.lr_scale += a.size;
        a.rates++;
        a.constants++;
        a.weight_decay++;
    }
}

extern "C" int adderlab_adamw_size() { return sizeof(AdamW); }
