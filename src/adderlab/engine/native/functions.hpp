// Functions of vectors, to about one unit in the last place of their largest value: exp2 and log, and
// what a head program applies to each channel, value and derivative together.
#pragma once

#include <cmath>

#include "simd.hpp"

constexpr double LOG2E_EXACT = 1.44269504088896340736, LN2_EXACT = 0.69314718055994530942;
constexpr float LOG2E = float(LOG2E_EXACT), LN2 = float(LN2_EXACT);
constexpr double PI = 3.14159265358979323846;
constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer

#if defined(__AVX512F__)

// With 32 registers and a lookup of 32 entries in one instruction: 2^(j/32) from a table, then a
// polynomial of degree 2 on [-1/64, 1/64]. The entries are stored minus the bits that the exponent
// shift adds to them.
struct Exp2Table {
    alignas(64) int32_t bits[32];
    Exp2Table() {
        for (int j = 0; j < 32; j++) {
            float value = float(std::exp2(j / 32.0));
            std::memcpy(&bits[j], &value, 4);
            bits[j] -= j << 18;
        }
    }
};
inline const Exp2Table exp2_table;

// 2^x for -126 <= x <= 126, relative error 1e-7, exact at 0.
INLINE vf exp2_in_range(vf x) {
    vf shifted = x + ROUND / 32;
    vf f = x - (shifted - ROUND / 32);
    __m512i low = _mm512_load_si512(exp2_table.bits), high = _mm512_load_si512(exp2_table.bits + 16);
    vi base = (vi)_mm512_permutex2var_epi32(low, (__m512i)shifted, high) + ((vi)shifted << 18);
    return (vf)base + (vf)base * f * (f * 2.4022651e-1f + 6.9315734e-1f);
}

#else

// 2^x for -126 <= x <= 126. Minimax polynomial on [-1/2, 1/2], relative error 1e-7, exact at 0.
INLINE vf exp2_in_range(vf x) {
    vf shifted = x + ROUND;
    vf f = x - (shifted - ROUND);
    vf p = f * 1.3264720e-3f + 9.6715130e-3f;
    p = p * f + 5.5507340e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314700e-1f;
    p = p * f + 1.0f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

#endif

// 2^x for x <= 126; below -126 it stays at 2^-126.
INLINE vf exp2_clamped(vf x) { return exp2_in_range(larger(splat(-126.0f), x)); }

// log(x) of a positive normal number, relative error 1e-7 also next to 1.
INLINE vf log_positive(vf x) {
    vi exponent = ((vi)x - 0x3f3504f3) >> 23;  // x / 2^exponent lies in [sqrt(1/2), sqrt(2))
    vf f = (vf)((vi)x - (exponent << 23)) - 1.0f;
    vf p = f * 8.979012e-2f - 1.4426579e-1f;
    p = p * f + 1.4883732e-1f;
    p = p * f - 1.6551833e-1f;
    p = p * f + 1.9963478e-1f;
    p = p * f - 2.5002582e-1f;
    p = p * f + 3.3333933e-1f;
    p = p * f - 4.9999983e-1f;
    vf n = __builtin_convertvector(exponent, vf);
    // log(2) in two parts, the first short enough for n times it to be exact.
    return n * 0.693359375f + (f + (f * f * p - n * 2.12194440e-4f));
}

// log(1 + x) for x >= 0, relative error 1e-7 also for tiny x.
INLINE vf log_one_plus(vf x) {
    vf sum = 1.0f + x;
    vf lost = x - (sum - 1.0f);
    return log_positive(sum) + lost / sum;
}

#if defined(__AVX512F__)

// GELU in units of STEP: with x = STEP * y, gelu(x) = STEP * (max(y, 0) - g(|y|)) where
// g(u) = a Q(a) / STEP, a = STEP * u, Q the upper tail of the normal distribution. g and its
// derivative come from one polynomial on each of 32 intervals centred on the integers
// 0, 1, ..., its coefficients looked up in registers. The callers fold STEP into the matrices
// around the activation. One degree less would leave errors of 8e-7 in the derivative, which show
// where the gradients of many samples cancel.
namespace gelu {

constexpr int INTERVALS = 32, DEGREE = 5;
constexpr double STEP = 5.5 / (INTERVALS - 0.5);  // at 5.5 both parts vanish in single precision

inline double tail(double a) { return 0.5 * std::erfc(a * std::sqrt(0.5)); }
inline double density(double a) { return std::exp(-0.5 * a * a) / std::sqrt(2.0 * PI); }

struct Coefficients {
    alignas(64) float row[DEGREE + 1][INTERVALS];

    // Interpolate g' at Chebyshev nodes (Newton's divided differences) and integrate.
    Coefficients() {
        for (int interval = 0; interval < INTERVALS; interval++) {
            double node[DEGREE], difference[DEGREE];
            for (int i = 0; i < DEGREE; i++) {
                double c = std::cos(PI * (i + 0.5) / DEGREE);
                node[i] = interval == 0 ? 0.25 + 0.25 * c : 0.5 * c;
                double a = STEP * (interval + node[i]);
                difference[i] = tail(a) - a * density(a);
            }
            for (int order = 1; order < DEGREE; order++)
                for (int i = DEGREE - 1; i >= order; i--)
                    difference[i] = (difference[i] - difference[i - 1]) / (node[i] - node[i - order]);
            double slope[DEGREE] = {};
            for (int i = DEGREE - 1; i >= 0; i--) {
                for (int k = DEGREE - 1; k > 0; k--) slope[k] = slope[k - 1] - node[i] * slope[k];
                slope[0] = difference[i] - node[i] * slope[0];
            }
            for (int k = 0; k < DEGREE; k++) row[k + 1][interval] = float(slope[k] / (k + 1));
            double error = 0.0;
            for (int i = 0; i < DEGREE; i++) {
                double u = interval + node[i], integral = 0.0, power = node[i];
                for (int k = 0; k < DEGREE; k++, power *= node[i]) integral += slope[k] / (k + 1) * power;
                error += u * tail(STEP * u) - integral;
            }
            row[0][interval] = interval == 0 ? 0.0f : float(error / DEGREE);
        }
    }
};

inline const Coefficients coefficients;

INLINE void value_and_slope(vf y, vf& value, vf& slope) {
    vf u = smaller(splat(INTERVALS - 0.51f), absolute(y));
    vf shifted = u + ROUND;
    vf t = u - (shifted - ROUND);
    vi interval = (vi)shifted;
    vf p = lookup(coefficients.row[DEGREE], interval), d = p;
    for (int k = DEGREE - 1; k >= 1; k--) {
        p = p * t + lookup(coefficients.row[k], interval);
        d = d * t + p;
    }
    p = p * t + lookup(coefficients.row[0], interval);
    value = larger(vf{}, y) - p;
    slope = select(y > 0.0f, 1.0f - d, d);
}

}  // namespace gelu

#else

// GELU with a = |x|: gelu(x) = max(x, 0) - a Q(a), Q the upper tail of the normal distribution, here
// exp(-a^2 / 2) times a polynomial in 1 / (1 + p a): Abramowitz and Stegun, 7.1.26. Errors of 3e-7.
// Where a lookup takes several instructions this is less work than the table above.
namespace gelu {

constexpr double STEP = 1.0;
constexpr float TO_T = 0.3275911f * 0.70710678f;

INLINE void value_and_slope(vf x, vf& value, vf& slope) {
    vf a = smaller(splat(13.0f), absolute(x));
    vf t = 1.0f / (a * TO_T + 1.0f);
    vf density = exp2_in_range(a * a * (-0.5f * LOG2E));  // times sqrt(2 pi)
    vf p = t * 0.5307027145f - 0.7265760135f;
    p = p * t + 0.7107068705f;
    p = p * t - 0.142248368f;
    p = p * t + 0.127414796f;
    vf tail = p * t * density;
    value = larger(vf{}, x) - a * tail;
    vf low = tail - a * density * 0.39894228f;
    slope = select(x > 0.0f, 1.0f - low, low);
}

}  // namespace gelu

#endif

// The functions of a head program under their names there (models/head_program.py); those that do not
// need their derivative's own code are written out by head.py.

// silu(x) = x / (1 + e^-x) and its derivative.
INLINE void silu_value_and_slope(vf x, vf& value, vf& slope) {
    vf e = exp2_clamped(smaller(splat(126.0f), x * -LOG2E));
    vf sigmoid = 1.0f / (1.0f + e);
    value = x * sigmoid;
    slope = sigmoid * (1.0f + value * e);
}

INLINE void relu_value_and_slope(vf x, vf& value, vf& slope) {
    value = larger(vf{}, x);
    slope = select(x > 0.0f, splat(1.0f), vf{});
}

// e^x, relative error 2e-7; infinite where single precision ends, 0 below its normal numbers.
INLINE vf exponential(vf x) {
    vf clamped = smaller(splat(130.0f), larger(splat(-130.0f), x));
    vf n = (clamped * LOG2E + ROUND) - ROUND;
    vf rest = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // log(2) in two parts, as below
    // 2^n in two factors: either is a normal number.
    vi whole = __builtin_convertvector(n, vi), half = whole >> 1;
    return exp2_in_range(rest * LOG2E) * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}

INLINE void exp_value_and_slope(vf x, vf& value, vf& slope) { slope = value = exponential(x); }

// e^-x for a sigmoid, within what exp2 computes: beyond, the sigmoid is 0 or 1.
INLINE vf sigmoid_exp(vf x) { return exp2_clamped(smaller(splat(126.0f), x * -LOG2E)); }

INLINE void sigmoid_value_and_slope(vf x, vf& value, vf& slope) {
    vf e = sigmoid_exp(x);
    value = 1.0f / (1.0f + e);
    slope = value * (e * value);
}

INLINE void tanh_value_and_slope(vf x, vf& value, vf& slope) {
    vf e = exp2_clamped(absolute(x) * (-2.0f * LOG2E));
    vf inverse = 1.0f / (1.0f + e);
    vf far = (1.0f - e) * inverse, square = x * x;
    // Next to 0 the quotient loses its digits: x + x^3 p(x^2), a minimax fit on [-0.6, 0.6].
    vf p = square * -5.9058679e-3f + 2.0805384e-2f;
    p = p * square - 5.3786683e-2f;
    p = p * square + 1.3331958e-1f;
    p = p * square - 3.3333299e-1f;
    vf near = x + x * square * p;
    value = select(absolute(x) < 0.6f, near, select(x < 0.0f, -far, far));
    slope = 4.0f * e * inverse * inverse;
}

// tanh alone, relative error 4e-7: a minimax quotient on [-9, 9], beyond which it is +-1. Half the work of
// the above, for scores, of which there are many and whose slope 1 - tanh^2 need not be exact where it
// is nothing.
INLINE vf tanh_value(vf x) {
    vf y = smaller(splat(9.0f), larger(splat(-9.0f), x)), u = y * y;
    vf p = u * 1.3354633e-8f + 2.0609060e-5f;
    p = p * u + 3.4955867e-3f;
    p = p * u + 1.3381024e-1f;
    p = p * u + 1.0f;
    vf q = u * 7.7765461e-7f + 3.2856325e-4f;
    q = q * u + 2.5876976e-2f;
    q = q * u + 4.6714340e-1f;
    q = q * u + 1.0f;
    return y * p / q;
}

INLINE void softplus_value_and_slope(vf x, vf& value, vf& slope) {
    vf e = exponential(-absolute(x));
    vf inverse = 1.0f / (1.0f + e);
    value = larger(vf{}, x) + log_one_plus(e);
    slope = select(x > 0.0f, inverse, e * inverse);
}

// x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
INLINE void gelu_tanh_value_and_slope(vf x, vf& value, vf& slope) {
    constexpr float C = 1.59576912160573071176f, CUBIC = 0.044715f;
    vf square = smaller(splat(1e6f), x * x);
    vf e = sigmoid_exp(x * (C + (C * CUBIC) * square));
    vf sigmoid = 1.0f / (1.0f + e);
    value = x * sigmoid;
    slope = sigmoid + value * (e * sigmoid) * (C + (3.0f * C * CUBIC) * square);
}

INLINE void abs_value_and_slope(vf x, vf& value, vf& slope) {
    value = absolute(x);
    slope = select(x > 0.0f, splat(1.0f), select(x < 0.0f, splat(-1.0f), vf{}));
}

INLINE void square_value_and_slope(vf x, vf& value, vf& slope) {
    value = x * x;
    slope = x + x;
}

INLINE void sqrt_value_and_slope(vf x, vf& value, vf& slope) {
    value = square_root(x);
    slope = 0.5f / value;
}

INLINE void rsqrt_value_and_slope(vf x, vf& value, vf& slope) {
    value = 1.0f / square_root(x);
    slope = -0.5f * value / x;
}

INLINE void reciprocal_value_and_slope(vf x, vf& value, vf& slope) {
    value = 1.0f / x;
    slope = -value * value;
}

// The derivative is 1 on both ends, as PyTorch has it.
INLINE void clamp_value_and_slope(vf x, float low, float high, vf& value, vf& slope) {
    value = smaller(splat(high), larger(splat(low), x));
    slope = select((x >= low) & (x <= high), splat(1.0f), vf{});
}

// The larger and the smaller of two, and the derivative by the first; equals share it. What is no number
// shows in the result, whichever it is.
INLINE void maximum_value_and_slope(vf a, vf b, vf& value, vf& slope) {
    value = select(a != a, a, larger(a, b));
    slope = select(a > b, splat(1.0f), select(a == b, splat(0.5f), vf{}));
}

INLINE void minimum_value_and_slope(vf a, vf b, vf& value, vf& slope) {
    value = select(a != a, a, smaller(a, b));
    slope = select(a < b, splat(1.0f), select(a == b, splat(0.5f), vf{}));
}
