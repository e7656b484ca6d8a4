// Layers of a transformer as single autograd nodes over the kernels beside this file.
#include "../guarded.h"
#include "parts.h"
#include "whole.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Products products_of(AutogradContext* context) {
  return context->saved_data["libtorch"].toBool() ? Products::libtorch : Products::own;
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
                        bool recorded, Products products) {
    const ssl_fused::Mlp of{x.size(-1), first.size(0), approximate};
    const long rows = x.numel() / of.width;
    auto inner = half({rows, of.hidden});
    auto slope = recorded ? half({rows, of.hidden}) : Tensor();
    auto y = empty(x.sizes(), at::kFloat);
    if (products == Products::own) {
      in_rows(of, x, residual, {packed_transpose(first), first_bias, packed_transpose(second), second_bias}, inner,
              slope, y);
    } else {
      whole_mlp(of, x, residual, {first, first_bias, second, second_bias}, inner, slope, y);
    }
    if (recorded) {
      context->save_for_backward({x, first, second, inner, slope});
      context->saved_data["approximate"] = approximate;
      context->saved_data["libtorch"] = products == Products::libtorch;
    }
    return y;
  }

  static void in_rows(const ssl_fused::Mlp& of, const Tensor& x, const Tensor& residual, const Tensor (&weights)[4],
                      const Tensor& inner, const Tensor& slope, const Tensor& y) {
    const long rows = inner.size(0);
    in_parts(parts_of(rows, kRowsOfPart), [&](long part, long) {
      const long row = part * kRowsOfPart;
      ssl_fused::mlp(of, halves(x) + row * of.width, floats(residual) + row * of.width,
                     std::min(kRowsOfPart, rows - row), halves(weights[0]), floats(weights[1]), halves(weights[2]),
                     floats(weights[3]), mutable_halves(inner) + row * of.hidden,
                     slope.defined() ? mutable_halves(slope) + row * of.hidden : nullptr,
                     mutable_floats(y) + row * of.width);
    });
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    plain_backward();
    const auto saved = context->get_saved_variables();
    const auto& x = saved.at(0);
    const auto& first = saved.at(1);
    const auto dy = gradients.at(0).contiguous();
    const ssl_fused::Mlp of{x.size(-1), first.size(0), context->saved_data["approximate"].toBool()};
    const long rows = x.numel() / of.width;
    const auto products = products_of(context);
    auto dy_half = half({rows, of.width});
    Tensor dinner;
    Tensor dx;
    if (products == Products::own) {
      dinner = half({rows, of.hidden});
      dx = half(x.sizes());
      in_rows_backward(of, dy, {saved.at(4), packed(first), packed(saved.at(2))}, dy_half, dinner, dx);
    } else {
      std::tie(dinner, dx) = whole_mlp_backward(of, dy, saved.at(4), first, saved.at(2), dy_half);
      dx = dx.view(x.sizes());
    }
    Layer layers[] = {layer_of(dinner, x), layer_of(dy_half, saved.at(3))};
    weight_gradients(products, layers);
    return {dx,       dy,       layers[0].dweight, layers[0].dbias, layers[1].dweight, layers[1].dbias,
            Tensor(), Tensor(), Tensor()};
  }

  static void in_rows_backward(const ssl_fused::Mlp& of, const Tensor& dy, const Tensor (&saved)[3],
                               const Tensor& dy_half, const Tensor& dinner, const Tensor& dx) {
    const long rows = dy_half.size(0);
    in_parts(parts_of(rows, kRowsOfPart), [&](long part, long) {
      const long row = part * kRowsOfPart;
      ssl_fused::mlp_backward(of, floats(dy) + row * of.width, std::min(kRowsOfPart, rows - row),
                              halves(saved[0]) + row * of.hidden, halves(saved[1]), halves(saved[2]),
                              mutable_halves(dy_half) + row * of.width, mutable_halves(dinner) + row * of.hidden,
                              mutable_halves(dx) + row * of.width);
    });
  }
};

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& residual, const Tensor& qkv_weight,
                        const Tensor& qkv_bias, const Tensor& proj_weight, const Tensor& proj_bias, int64_t heads,
                        bool causal, Products products) {
    const ssl_fused::Attention of{x.size(1), x.size(2), heads, causal};
    const long rows = x.size(0) * of.n;
    auto qkv = half({rows, 3 * of.width});
    auto weights = half({x.size(0), heads, of.n, ssl_fused::padded(of.n)});
    auto mixed = half({rows, of.width});
    auto y = empty(x.sizes(), at::kFloat);
    if (products == Products::own) {
      in_examples(of, x, residual, {packed_transpose(qkv_weight), qkv_bias, packed_transpose(proj_weight), proj_bias},
                  {qkv, weights, mixed}, y);
    } else {
      whole_attention(of, x, residual, {qkv_weight, qkv_bias, proj_weight, proj_bias}, qkv, weights, mixed, y);
    }
    context->save_for_backward({x, qkv_weight, proj_weight, qkv, weights, mixed});
    context->saved_data["heads"] = heads;
    context->saved_data["causal"] = causal;
    context->saved_data["libtorch"] = products == Products::libtorch;
    return y;
  }

  static void in_examples(const ssl_fused::Attention& of, const Tensor& x, const Tensor& residual,
                          const Tensor (&layers)[4], const Tensor (&kept)[3], const Tensor& y) {
    const auto& [qkv, weights, mixed] = kept;
    const long examples = x.size(0);
    const long each = examples_of_part(of, examples);
    const long parts = parts_of(examples, each);
    const long room = ssl_fused::attention_scratch(of, each);
    const auto scratch = half({workers(parts), room});
    in_parts(parts, [&, &qkv = qkv, &weights = weights, &mixed = mixed](long part, long worker) {
      const long example = part * each;
      const long at = example * of.n * of.width;
      ssl_fused::attention(of, halves(x) + at, floats(residual) + at, std::min(each, examples - example),
                           halves(layers[0]), floats(layers[1]), halves(layers[2]), floats(layers[3]),
                           mutable_halves(qkv) + 3 * at, mutable_halves(weights) + example * weights.stride(0),
                           mutable_halves(mixed) + at, mutable_floats(y) + at,
                           mutable_halves(scratch) + worker * room);
    });
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    plain_backward();
    const auto saved = context->get_saved_variables();
    const auto& x = saved.at(0);
    const auto dy = gradients.at(0).contiguous();
    const ssl_fused::Attention of{x.size(1), x.size(2), context->saved_data["heads"].toInt(),
                                  context->saved_data["causal"].toBool()};
    const long rows = x.size(0) * of.n;
    const auto products = products_of(context);
    auto dy_half = half({rows, of.width});
    auto dqkv = half({rows, 3 * of.width});
    Tensor dx;
    if (products == Products::own) {
      dx = half(x.sizes());
      in_examples_backward(of, dy, {saved.at(3), saved.at(4), packed(saved.at(1)), packed(saved.at(2))},
                           {dy_half, dqkv, dx});
    } else {
      dx = whole_attention_backward(of, dy, saved.at(3), saved.at(4), {saved.at(1), saved.at(2)}, dy_half, dqkv);
      dx = dx.view(x.sizes());
    }
    Layer layers[] = {layer_of(dqkv, x), layer_of(dy_half, saved.at(5))};
    weight_gradients(products, layers);
    return {dx,       dy,       layers[0].dweight, layers[0].dbias, layers[1].dweight, layers[1].dbias,
            Tensor(), Tensor(), Tensor()};
  }

  static void in_examples_backward(const ssl_fused::Attention& of, const Tensor& dy, const Tensor (&saved)[4],
                                   const Tensor (&to)[3]) {
    const long examples = dy.size(0);
    const long each = examples_of_part(of, examples);
    const long parts = parts_of(examples, each);
    const long room = ssl_fused::attention_scratch(of, each);
    const auto scratch = half({workers(parts), room});
    in_parts(parts, [&](long part, long worker) {
      const long example = part * each;
      const long at = example * of.n * of.width;
      ssl_fused::attention_backward(of, floats(dy) + at, std::min(each, examples - example),
                                    halves(saved[0]) + 3 * at, halves(saved[1]) + example * saved[1].stride(0),
                                    halves(saved[2]), halves(saved[3]), mutable_halves(to[0]) + at,
                                    mutable_halves(to[1]) + 3 * at, mutable_halves(to[2]) + at,
                                    mutable_halves(scratch) + worker * room);
    });
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
                  const Tensor* second, const Tensor* second_bias, int approximate, int own, Tensor** y,
                  char** error) {
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
    *y = new Tensor(Mlp::apply(*x, *residual, *first, *first_bias, *second, *second_bias, approximate != 0, recorded,
                               own != 0 ? Products::own : Products::libtorch));
  });
}

int ssl_fused_attention(const Tensor* x, const Tensor* residual, const Tensor* qkv, const Tensor* qkv_bias,
                        const Tensor* proj, const Tensor* proj_bias, long long heads, int causal, int own,
                        Tensor** y, char** error) {
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
    *y = new Tensor(Attention::apply(*x, *residual, *qkv, *qkv_bias, *proj, *proj_bias, heads, causal != 0,
                                     own != 0 ? Products::own : Products::libtorch));
  });
}

}  // extern "C"
