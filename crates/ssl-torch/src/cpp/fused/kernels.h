// What the fused layers compute on a part of their rows: plain pointers, row by row, bfloat16 as 16-bit integers.
#pragma once

#include <cstdint>

namespace ssl_fused {

using bf16 = std::uint16_t;

// Whether this build has the kernels and this processor runs them fastest.
bool available();

// Panels of a weight `[rows, columns]` for products with it, and with its transpose.
void pack(const float* weight, long rows, long columns, bf16* to);
void pack_transpose(const float* weight, long rows, long columns, bf16* to);

// Layer normalization of `x`, `[rows, width]`; keeps the mean and the inverse deviation of each row in `moments`.
struct Norm {
  const float* weight;
  const float* bias;
  float eps;
  long width;
};
void norm(const Norm& with, const float* x, long rows, bf16* y, float* moments);
// Adds the gradient of `x` to `through`, where the gradient of the sum that goes around the layer is; `sums` gets
// the gradients of weight and bias, `[2, width]`.
void norm_backward(const Norm& with, const float* x, const float* moments, const bf16* dy, long rows,
                   const float* through, float* dx, float* sums);

// `residual + second(gelu(first(x)))`; weights are packed transposes.
struct Mlp {
  long width;
  long hidden;
  bool approximate;
};
void mlp(const Mlp& of, const bf16* x, const float* residual, long rows, const bf16* first, const float* first_bias,
         const bf16* second, const float* second_bias, bf16* inner, bf16* slope, float* y);
// Weights are packed. `dy` is rounded into `dy_half`; `dinner` is the gradient before the activation.
void mlp_backward(const Mlp& of, const float* dy, long rows, const bf16* slope, const bf16* first, const bf16* second,
                  bf16* dy_half, bf16* dinner, bf16* dx);

// The parts of both between whole products by another hand: what follows the first layer, its gradient in place, and
// the sum at the end.
void activate(const Mlp& of, const bf16* x, long rows, bf16* inner, bf16* slope);
void times_slope(const bf16* slope, long count, bf16* x);
void add(const bf16* x, const float* residual, long count, float* to);
void halve(const float* x, long count, bf16* to);

// `residual + proj(attention(qkv(x)))` of `examples` of `n` rows each; weights are packed transposes.
struct Attention {
  long n;
  long width;
  long heads;
  bool causal;
};
// Elements of a row of the weights between positions.
long padded(long n);
// Elements of scratch memory that a part of `examples` needs.
long attention_scratch(const Attention& of, long examples);
// What is between the linear layers of attention.
void mix(const Attention& of, long examples, const bf16* qkv, bf16* weights, bf16* mixed, bf16* scratch);
void mix_backward(const Attention& of, long examples, const bf16* qkv, const bf16* weights, const bf16* dmixed,
                  bf16* dqkv, bf16* scratch);
void attention(const Attention& of, const bf16* x, const float* residual, long examples, const bf16* qkv_weight,
               const float* qkv_bias, const bf16* proj_weight, const float* proj_bias, bf16* qkv, bf16* weights,
               bf16* mixed, float* y, bf16* scratch);
void attention_backward(const Attention& of, const float* dy, long examples, const bf16* qkv, const bf16* weights,
                        const bf16* qkv_weight, const bf16* proj_weight, bf16* dy_half, bf16* dqkv, bf16* dx,
                        bf16* scratch);

// Gradients of `rows_of_weight` rows of a weight `[.., in]` and of its bias from `dy`, `[rows, stride]`, and `x`.
long weight_scratch(long rows_of_weight, long in);
void weight_gradient(const bf16* dy, long stride, const bf16* x, long rows, long rows_of_weight, long in, float* dweight,
                     float* dbias, bf16* scratch);

}  // namespace ssl_fused
