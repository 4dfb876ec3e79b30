// The sizes of one table form, compile-time constants given on the compiler's command line, and the
// buffers they determine.
//
// A answer steps, P positions, T prompt positions, V vocabulary, H heads, K key and E value
// dimension, D width, F hidden units.
#pragma once

#include "scatter.hpp"

constexpr int A = ADDERLAB_A, P = ADDERLAB_P, T = ADDERLAB_T, V = ADDERLAB_V;
constexpr int H = ADDERLAB_H, K = ADDERLAB_K, E = ADDERLAB_E, D = ADDERLAB_D, F = ADDERLAB_F;

enum class Norm { NONE, RMS, LAYER };
enum class Activation { GELU, RELU, SWIGLU };
constexpr Norm NORM2 = Norm::ADDERLAB_NORM2, NORMF = Norm::ADDERLAB_NORMF;
constexpr Activation ACTIVATION = Activation::ADDERLAB_ACTIVATION;
constexpr bool GATED = ACTIVATION == Activation::SWIGLU;

// Whether the products start from a bias (that of the matrix or of the norm before it).
constexpr bool HIDDEN_BIAS = ADDERLAB_HIDDEN_BIAS, GATE_BIAS = GATED && ADDERLAB_NORM2_BIAS;
constexpr bool OUT_BIAS = ADDERLAB_OUT_BIAS, LOGIT_BIAS = ADDERLAB_LOGIT_BIAS;

constexpr int HK = H * K, HE = H * E;
constexpr int KV = HK + HE;  // features looked up per key
constexpr int QR = HK + D;   // features looked up per query: query and residual
constexpr int KV_ROW = row_size(KV), QR_ROW = row_size(QR);

// Activations of one answer step of one block, kept from the forward to the backward pass.
struct Column {
    vf query[HK], mix[HE], inverse_sum[H];
    vf cotangent[HE], cotangent_mean[H];     // (d loss / d mix) / sum, and its product with mix
    vf normed2[D], scale2;         // output of norm2 before weight and bias
    vf act[F], act_slope[F];       // the latter becomes d loss / d (fc1 output)
    vf gate[GATED ? F : 1];        // becomes d loss / d (gate output)
    vf residual[D];                // x before the MLP
    vf normedf[D], scalef;
    vf logit_grad[V], x_grad[D];   // d loss / d logits, d loss / d (x after the MLP)
    vf row_grad[QR];               // d loss / d query row: query, then residual
};
constexpr int COLUMN = sizeof(Column) / sizeof(vf);
