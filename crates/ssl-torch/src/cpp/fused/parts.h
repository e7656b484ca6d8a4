// Tensors as the kernels take them, and the gradients of weights.
#pragma once

#include "kernels.h"
#include "parallel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <stdexcept>

namespace {

using at::Tensor;
using ssl_fused::bf16;

// Rows that pass all of a layer before the next ones do: what they need stays in the second cache.
constexpr long kRowsOfPart = 64;
constexpr long kRowsOfNorm = 256;
// Rows of a weight come in multiples of a vector.
constexpr long kVector = 16;

long parts_of(long count, long each) { return (count + each - 1) / each; }

Tensor empty(at::IntArrayRef size, at::ScalarType kind) { return at::empty(size, at::TensorOptions().dtype(kind)); }
Tensor half(at::IntArrayRef size) { return empty(size, at::kBFloat16); }

const bf16* halves(const Tensor& x) { return static_cast<const bf16*>(x.const_data_ptr()); }
bf16* mutable_halves(const Tensor& x) { return static_cast<bf16*>(x.mutable_data_ptr()); }
const float* floats(const Tensor& x) { return x.const_data_ptr<float>(); }
float* mutable_floats(const Tensor& x) { return x.mutable_data_ptr<float>(); }

void plain_backward() {
  if (at::GradMode::is_enabled()) {
    throw std::runtime_error("fused layers: expected a plain backward pass, got one that is recorded");
  }
}

Tensor packed(const Tensor& weight) {
  auto to = half({weight.numel()});
  ssl_fused::pack(floats(weight), weight.size(0), weight.size(1), mutable_halves(to));
  return to;
}

Tensor packed_transpose(const Tensor& weight) {
  auto to = half({weight.numel()});
  ssl_fused::pack_transpose(floats(weight), weight.size(0), weight.size(1), mutable_halves(to));
  return to;
}

// Whose products run: the kernels' own, row by row with what is between them, or libtorch's, which know AMX.
enum class Products { own, libtorch };

// A linear layer whose gradients are asked for: that of its output, and its input.
struct Layer {
  Tensor dy;
  Tensor x;
  Tensor dweight;
  Tensor dbias;
};

// Both as matrices.
Layer layer_of(const Tensor& dy, const Tensor& x) {
  const long out = dy.size(-1);
  const long in = x.size(-1);
  return {dy.view({-1, out}), x.view({-1, in}), empty({out, in}, at::kFloat), empty({out}, at::kFloat)};
}

// Each worker gets a part of the rows of both weights.
void own_weight_gradients(const Layer (&layers)[2]) {
  const long shares = workers(layers[0].dy.size(-1) / kVector);
  long room = 0;
  for (const auto& layer : layers) {
    const long each = parts_of(parts_of(layer.dy.size(-1), kVector), shares) * kVector;
    room = std::max(room, ssl_fused::weight_scratch(each, layer.x.size(-1)));
  }
  const auto scratch = half({shares, room});
  in_parts(2 * shares, [&](long part, long worker) {
    const auto& [dy, x, dweight, dbias] = layers[part / shares];
    const long out = dy.size(-1);
    const long in = x.size(-1);
    const long each = parts_of(parts_of(out, kVector), shares) * kVector;
    const long first = part % shares * each;
    if (first < out) {
      ssl_fused::weight_gradient(halves(dy) + first, out, halves(x), dy.numel() / out, std::min(each, out - first), in,
                                 mutable_floats(dweight) + first * in, mutable_floats(dbias) + first,
                                 mutable_halves(scratch) + worker * room);
    }
  });
}

void weight_gradients(Products products, Layer (&layers)[2]) {
  if (products == Products::own) {
    own_weight_gradients(layers);
    return;
  }
  for (auto& layer : layers) {
    layer.dweight = at::mm(layer.dy.t(), layer.x).to(at::kFloat);
    layer.dbias = layer.dy.sum(0, false, at::kFloat);
  }
}

}  // namespace
