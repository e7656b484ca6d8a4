// Layers of a transformer as single autograd nodes over the kernels beside this file.
#include "../guarded.h"
#include "kernels.h"
#include "parallel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <stdexcept>

namespace {

using at::Tensor;
using ssl_fused::bf16;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

// A linear layer whose gradients are asked for: that of its output, and its input.
struct Layer {
  Tensor dy;
  Tensor x;
  Tensor dweight;
  Tensor dbias;
};

Layer layer_of(const Tensor& dy, const Tensor& x) {
  const long out = dy.size(-1);
  const long in = x.size(-1);
  return {dy, x, empty({out, in}, at::kFloat), empty({out}, at::kFloat)};
}

// Each worker gets a part of the rows of both weights.
void weight_gradients(const Layer (&layers)[2]) {
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

struct Norm : torch::autograd::Function<Norm> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                               double eps) {
    const long width = x.size(-1);
    const long rows = x.numel() / width;
    auto y = half(x.sizes());
    auto moments = empty({rows, 2}, at::kFloat);
    const ssl_fused::Norm with{floats(weight), floats(bias), static_cast<float>(eps), width};
    in_parts(parts_of(rows, kRowsOfNorm), [&](long part, long) {
      const long row = part * kRowsOfNorm;
      ssl_fused::norm(with, floats(x) + row * width, std::min(kRowsOfNorm, rows - row),
                      mutable_halves(y) + row * width, mutable_floats(moments) + 2 * row);
    });
    context->save_for_backward({x, weight, moments});
    context->set_materialize_grads(false);
    return {x, y};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    plain_backward();
    const auto& through = gradients.at(0);
    if (!gradients.at(1).defined()) {
      return {through, Tensor(), Tensor(), Tensor()};
    }
    const auto saved = context->get_saved_variables();
    const auto& x = saved.at(0);
    const auto& weight = saved.at(1);
    const auto dy = gradients.at(1).contiguous();
    const auto around = through.defined() ? through.contiguous() : Tensor();
    const long width = x.size(-1);
    const long rows = x.numel() / width;
    const long parts = parts_of(rows, kRowsOfNorm);
    auto dx = empty(x.sizes(), at::kFloat);
    auto sums = at::zeros({parts, 2, width}, at::kFloat);
    const ssl_fused::Norm with{floats(weight), nullptr, 0, width};
    in_parts(parts, [&](long part, long) {
      const long row = part * kRowsOfNorm;
      ssl_fused::norm_backward(with, floats(x) + row * width, floats(saved.at(2)) + 2 * row, halves(dy) + row * width,
                               std::min(kRowsOfNorm, rows - row),
                               around.defined() ? floats(around) + row * width : nullptr,
                               mutable_floats(dx) + row * width, mutable_floats(sums) + 2 * part * width);
    });
    const auto total = sums.sum(0);
    return {dx, total.select(0, 0), total.select(0, 1), Tensor()};
  }
};

struct Mlp : torch::autograd::Function<Mlp> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& residual, const Tensor& first,
                        const Tensor& first_bias, const Tensor& second, const Tensor& second_bias, bool approximate,
                        bool recorded) {
    const ssl_fused::Mlp of{x.size(-1), first.size(0), approximate};
    const long rows = x.numel() / of.width;
    const auto first_packed = packed_transpose(first);
    const auto second_packed = packed_transpose(second);
    auto inner = half({rows, of.hidden});
    auto slope = recorded ? half({rows, of.hidden}) : Tensor();
    auto y = empty(x.sizes(), at::kFloat);
    in_parts(parts_of(rows, kRowsOfPart), [&](long part, long) {
      const long row = part * kRowsOfPart;
      ssl_fused::mlp(of, halves(x) + row * of.width, floats(residual) + row * of.width,
                     std::min(kRowsOfPart, rows - row), halves(first_packed), floats(first_bias),
                     halves(second_packed), floats(second_bias), mutable_halves(inner) + row * of.hidden,
                     recorded ? mutable_halves(slope) + row * of.hidden : nullptr, mutable_floats(y) + row * of.width);
    });
    if (recorded) {
      context->save_for_backward({x, first, second, inner, slope});
      context->saved_data["approximate"] = approximate;
    }
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    plain_backward();
    const auto saved = context->get_saved_variables();
    const auto& x = saved.at(0);
    const auto& first = saved.at(1);
    const auto dy = gradients.at(0).contiguous();
    const ssl_fused::Mlp of{x.size(-1), first.size(0), context->saved_data["approximate"].toBool()};
    const long rows = x.numel() / of.width;
    const auto first_packed = packed(first);
    const auto second_packed = packed(saved.at(2));
    auto dy_half = half({rows, of.width});
    auto dinner = half({rows, of.hidden});
    auto dx = half(x.sizes());
    in_parts(parts_of(rows, kRowsOfPart), [&](long part, long) {
      const long row = part * kRowsOfPart;
      ssl_fused::mlp_backward(of, floats(dy) + row * of.width, std::min(kRowsOfPart, rows - row),
                              halves(saved.at(4)) + row * of.hidden, halves(first_packed), halves(second_packed),
                              mutable_halves(dy_half) + row * of.width, mutable_halves(dinner) + row * of.hidden,
                              mutable_halves(dx) + row * of.width);
    });
    const Layer layers[] = {layer_of(dinner, x), layer_of(dy_half, saved.at(3))};
    weight_gradients(layers);
    return {dx, dy, layers[0].dweight, layers[0].dbias, layers[1].dweight, layers[1].dbias, Tensor(), Tensor()};
  }
};

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& residual, const Tensor& qkv_weight,
                        const Tensor& qkv_bias, const Tensor& proj_weight, const Tensor& proj_bias, int64_t heads,
                        bool causal) {
    const ssl_fused::Attention of{x.size(1), x.size(2), heads, causal};
    const long examples = x.size(0);
    const auto qkv_packed = packed_transpose(qkv_weight);
    const auto proj_packed = packed_transpose(proj_weight);
    auto qkv = half({examples * of.n, 3 * of.width});
    auto weights = half({examples, heads, of.n, ssl_fused::padded(of.n)});
    auto mixed = half({examples * of.n, of.width});
    auto y = empty(x.sizes(), at::kFloat);
    const long each = examples_of_part(of, examples);
    const long parts = parts_of(examples, each);
    const long room = ssl_fused::attention_scratch(of, each);
    const auto scratch = half({workers(parts), room});
    in_parts(parts, [&](long part, long worker) {
      const long example = part * each;
      const long at = example * of.n * of.width;
      ssl_fused::attention(of, halves(x) + at, floats(residual) + at, std::min(each, examples - example),
                           halves(qkv_packed), floats(qkv_bias), halves(proj_packed), floats(proj_bias),
                           mutable_halves(qkv) + 3 * at, mutable_halves(weights) + example * weights.stride(0),
                           mutable_halves(mixed) + at, mutable_floats(y) + at, mutable_halves(scratch) + worker * room);
    });
    context->save_for_backward({x, qkv_weight, proj_weight, qkv, weights, mixed});
    context->saved_data["heads"] = heads;
    context->saved_data["causal"] = causal;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    plain_backward();
    const auto saved = context->get_saved_variables();
    const auto& x = saved.at(0);
    const auto& weights = saved.at(4);
    const auto dy = gradients.at(0).contiguous();
    const ssl_fused::Attention of{x.size(1), x.size(2), context->saved_data["heads"].toInt(),
                                  context->saved_data["causal"].toBool()};
    const long examples = x.size(0);
    const auto qkv_packed = packed(saved.at(1));
    const auto proj_packed = packed(saved.at(2));
    auto dy_half = half({examples * of.n, of.width});
    auto dqkv = half({examples * of.n, 3 * of.width});
    auto dx = half(x.sizes());
    const long each = examples_of_part(of, examples);
    const long parts = parts_of(examples, each);
    const long room = ssl_fused::attention_scratch(of, each);
    const auto scratch = half({workers(parts), room});
    in_parts(parts, [&](long part, long worker) {
      const long example = part * each;
      const long at = example * of.n * of.width;
      ssl_fused::attention_backward(of, floats(dy) + at, std::min(each, examples - example), halves(saved.at(3)) + 3 * at,
                                    halves(weights) + example * weights.stride(0), halves(qkv_packed),
                                    halves(proj_packed), mutable_halves(dy_half) + at, mutable_halves(dqkv) + 3 * at,
                                    mutable_halves(dx) + at, mutable_halves(scratch) + worker * room);
    });
    const Layer layers[] = {layer_of(dqkv, x), layer_of(dy_half, saved.at(5))};
    weight_gradients(layers);
    return {dx, dy, layers[0].dweight, layers[0].dbias, layers[1].dweight, layers[1].dbias, Tensor(), Tensor()};
  }

  // By fours, so that the rows fill tiles, unless that takes too much of the cache or leaves a worker without work.
  static long examples_of_part(const ssl_fused::Attention& of, long examples) {
    const long most = of.n < 2 * kRowsOfPart ? parts_of(parts_of(kRowsOfPart, of.n), 4) * 4 : 1;
    return std::max(1L, std::min(most, examples / (4 * workers(examples))));
  }
};

void check(const Tensor& x, const char* name, at::ScalarType kind, at::IntArrayRef size) {
  TORCH_CHECK(x.device().is_cpu() && x.scalar_type() == kind && x.sizes() == size && x.is_contiguous(), name,
              ": expected a contiguous ", kind, " of ", size, " on the CPU, got ", x.scalar_type(), " of ", x.sizes());
}

}  // namespace

extern "C" {

int ssl_fused_available(int* available, char** error) {
  return guarded(error, [&] { *available = ssl_fused::available() ? 1 : 0; });
}

int ssl_fused_norm(const Tensor* x, const Tensor* weight, const Tensor* bias, double eps, Tensor** same, Tensor** y,
                   char** error) {
  return guarded(error, [&] {
    check(*x, "input", at::kFloat, x->sizes());
    const long width = x->size(-1);
    TORCH_CHECK(width % kVector == 0, "width: expected a multiple of 16, got ", width);
    check(*weight, "weight", at::kFloat, {width});
    check(*bias, "bias", at::kFloat, {width});
    const auto both = Norm::apply(*x, *weight, *bias, eps);
    *same = new Tensor(both.at(0));
    *y = new Tensor(both.at(1));
  });
}

int ssl_fused_mlp(const Tensor* x, const Tensor* residual, const Tensor* first, const Tensor* first_bias,
                  const Tensor* second, const Tensor* second_bias, int approximate, Tensor** y, char** error) {
  return guarded(error, [&] {
    const long width = x->size(-1);
    const long hidden = first->size(0);
    TORCH_CHECK(width % 32 == 0 && hidden % 32 == 0, "widths: expected multiples of 32, got ", width, " and ", hidden);
    check(*x, "input", at::kBFloat16, x->sizes());
    check(*residual, "residual", at::kFloat, x->sizes());
    check(*first, "first weight", at::kFloat, {hidden, width});
    check(*first_bias, "first bias", at::kFloat, {hidden});
    check(*second, "second weight", at::kFloat, {width, hidden});
    check(*second_bias, "second bias", at::kFloat, {width});
    bool recorded = false;
    for (const auto* input : {x, residual, first, first_bias, second, second_bias}) {
      recorded = recorded || (at::GradMode::is_enabled() && input->requires_grad());
    }
    *y = new Tensor(Mlp::apply(*x, *residual, *first, *first_bias, *second, *second_bias, approximate != 0, recorded));
  });
}

int ssl_fused_attention(const Tensor* x, const Tensor* residual, const Tensor* qkv, const Tensor* qkv_bias,
                        const Tensor* proj, const Tensor* proj_bias, long long heads, int causal, Tensor** y,
                        char** error) {
  return guarded(error, [&] {
    TORCH_CHECK(x->dim() == 3, "input: expected [B, N, D], got ", x->sizes());
    const long width = x->size(2);
    TORCH_CHECK(heads > 0 && width % (32 * heads) == 0, "heads: expected widths of multiples of 32, got ", width,
                " in ", heads);
    check(*x, "input", at::kBFloat16, x->sizes());
    check(*residual, "residual", at::kFloat, x->sizes());
    check(*qkv, "weight of queries, keys and values", at::kFloat, {3 * width, width});
    check(*qkv_bias, "bias of queries, keys and values", at::kFloat, {3 * width});
    check(*proj, "weight", at::kFloat, {width, width});
    check(*proj_bias, "bias", at::kFloat, {width});
    *y = new Tensor(Attention::apply(*x, *residual, *qkv, *qkv_bias, *proj, *proj_bias, heads, causal != 0));
  });
}

}  // extern "C"
