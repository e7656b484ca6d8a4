// The branches with libtorch's products, each over all rows, and the kernels between them.
#pragma once

#include "parts.h"

#include <ATen/ops/linear.h>

namespace {

// Rows that one worker takes at once from what is between two products.
constexpr long kRowsBetween = 256;

// Runs `f(first row, count)`.
template <typename F>
void between(long rows, const F& f) {
  in_parts(parts_of(rows, kRowsBetween), [&](long part, long) {
    const long row = part * kRowsBetween;
    f(row, std::min(kRowsBetween, rows - row));
  });
}

Tensor as_half(const Tensor& x) { return x.to(at::kBFloat16); }

Tensor whole_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return at::linear(x, as_half(weight), as_half(bias));
}

void whole_sum(const Tensor& x, const Tensor& residual, const Tensor& y) {
  const long width = y.size(-1);
  between(y.numel() / width, [&](long row, long rows) {
    const long at = row * width;
    ssl_fused::add(halves(x) + at, floats(residual) + at, rows * width, mutable_floats(y) + at);
  });
}

void whole_half(const Tensor& x, const Tensor& to) {
  const long width = to.size(-1);
  between(x.numel() / width, [&](long row, long rows) {
    ssl_fused::halve(floats(x) + row * width, rows * width, mutable_halves(to) + row * width);
  });
}

// `slope` is undefined where no gradient is asked for.
void whole_mlp(const ssl_fused::Mlp& of, const Tensor& x, const Tensor& residual, const Tensor (&weights)[4],
               const Tensor& inner, const Tensor& slope, const Tensor& y) {
  const auto before = whole_linear(x.view({-1, of.width}), weights[0], weights[1]);
  between(inner.size(0), [&](long row, long rows) {
    const long at = row * of.hidden;
    ssl_fused::activate(of, halves(before) + at, rows, mutable_halves(inner) + at,
                        slope.defined() ? mutable_halves(slope) + at : nullptr);
  });
  whole_sum(whole_linear(inner, weights[2], weights[3]), residual, y);
}

// Returns the gradient before the activation and that of the input.
std::pair<Tensor, Tensor> whole_mlp_backward(const ssl_fused::Mlp& of, const Tensor& dy, const Tensor& slope,
                                             const Tensor& first, const Tensor& second, const Tensor& dy_half) {
  whole_half(dy, dy_half);
  const auto dinner = at::mm(dy_half, as_half(second));
  between(dinner.size(0), [&](long row, long rows) {
    const long at = row * of.hidden;
    ssl_fused::times_slope(halves(slope) + at, rows * of.hidden, mutable_halves(dinner) + at);
  });
  return {dinner, at::mm(dinner, as_half(first))};
}

// `qkv` is written over.
void whole_attention(const ssl_fused::Attention& of, const Tensor& x, const Tensor& residual,
                     const Tensor (&layers)[4], Tensor& qkv, const Tensor& weights, const Tensor& mixed,
                     const Tensor& y) {
  qkv = whole_linear(x.view({-1, of.width}), layers[0], layers[1]);
  const long room = ssl_fused::attention_scratch(of, 0);
  const auto scratch = half({workers(x.size(0)), room});
  in_parts(x.size(0), [&](long example, long worker) {
    const long at = example * of.n * of.width;
    ssl_fused::mix(of, 1, halves(qkv) + 3 * at, mutable_halves(weights) + example * weights.stride(0),
                   mutable_halves(mixed) + at, mutable_halves(scratch) + worker * room);
  });
  whole_sum(whole_linear(mixed, layers[2], layers[3]), residual, y);
}

// Returns the gradient of the input.
Tensor whole_attention_backward(const ssl_fused::Attention& of, const Tensor& dy, const Tensor& qkv,
                                const Tensor& weights, const Tensor (&layers)[2], const Tensor& dy_half,
                                const Tensor& dqkv) {
  whole_half(dy, dy_half);
  const auto dmixed = at::mm(dy_half, as_half(layers[1]));
  const long room = ssl_fused::attention_scratch(of, 0);
  const auto scratch = half({workers(dy.size(0)), room});
  in_parts(dy.size(0), [&](long example, long worker) {
    const long at = example * of.n * of.width;
    ssl_fused::mix_backward(of, 1, halves(qkv) + 3 * at, halves(weights) + example * weights.stride(0),
                            halves(dmixed) + at, mutable_halves(dqkv) + 3 * at,
                            mutable_halves(scratch) + worker * room);
  });
  return at::mm(dqkv, as_half(layers[0]));
}

}  // namespace
