// The fused layers on a part of their rows; the only file that is compiled for AVX512-BF16.
#include "kernels.h"

#include "gemm.h"

namespace {

inline float sum(__m512 x) { return _mm512_reduce_add_ps(x); }

// e^x for x of at most 0, to five digits.
inline __m512 exponential(__m512 x) {
  const __m512 t = _mm512_mul_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.f)), _mm512_set1_ps(1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_mul_ps(_mm512_sub_ps(t, whole), _mm512_set1_ps(0.693147181f));
  __m512 p = _mm512_set1_ps(1.f / 120);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f / 24));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f / 6));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(p, whole);
}

struct Activated {
  __m512 value;
  __m512 slope;
};

// x times the normal distribution's mass below x, and its derivative. The error function is that of Abramowitz &
// Stegun, 1964, 7.1.26.
inline Activated gelu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  const __m512 half = _mm512_set1_ps(0.5f);
  const __m512 bell = exponential(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
  // 0.3275911 over the root of two.
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.23164190f), one));
  __m512 p = _mm512_set1_ps(1.061405429f);
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(p, t), bell), half);
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 mass = _mm512_mask_mov_ps(_mm512_sub_ps(one, tail), negative, tail);
  const __m512 density = _mm512_mul_ps(bell, _mm512_set1_ps(0.398942280f));
  return {_mm512_mul_ps(x, mass), _mm512_fmadd_ps(x, density, mass)};
}

// The same with a hyperbolic tangent: Hendrycks & Gimpel, 2016, section 2.
inline Activated gelu_tanh(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  const __m512 square = _mm512_mul_ps(x, x);
  // Twice the root of 2 / pi: 1 + tanh(y / 2) is twice the logistic function of y.
  const __m512 scale = _mm512_set1_ps(1.59576912f);
  const __m512 y = _mm512_mul_ps(_mm512_mul_ps(x, scale), _mm512_fmadd_ps(square, _mm512_set1_ps(0.044715f), one));
  const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(y)));
  const __m512 tail = _mm512_div_ps(e, _mm512_add_ps(one, e));
  const __mmask16 negative = _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 mass = _mm512_mask_mov_ps(_mm512_sub_ps(one, tail), negative, tail);
  const __m512 dy = _mm512_mul_ps(scale, _mm512_fmadd_ps(square, _mm512_set1_ps(3 * 0.044715f), one));
  const __m512 rise = _mm512_mul_ps(_mm512_mul_ps(mass, _mm512_sub_ps(one, mass)), dy);
  return {_mm512_mul_ps(x, mass), _mm512_fmadd_ps(x, rise, mass)};
}

// What follows a product: its rows, with a bias, in bfloat16.
struct Half {
  bf16* to;
  long stride;
  const float* bias;
  void operator()(long row, long column, const float* x, long width) const {
    bf16* at = to + row * stride + column;
    for (long j = 0; j < width; j += kVector) {
      __m512 value = _mm512_loadu_ps(x + j);
      if (bias != nullptr) value = _mm512_add_ps(value, _mm512_loadu_ps(bias + column + j));
      store(at + j, value);
    }
  }
};

// The same, rounded as a layer's result is, added to a residual in float32.
struct Residual {
  const float* residual;
  float* to;
  long stride;
  const float* bias;
  void operator()(long row, long column, const float* x, long width) const {
    const long at = row * stride + column;
    for (long j = 0; j < width; j += kVector) {
      const __m512 value = rounded(_mm512_add_ps(_mm512_loadu_ps(x + j), _mm512_loadu_ps(bias + column + j)));
      _mm512_storeu_ps(to + at + j, _mm512_add_ps(value, _mm512_loadu_ps(residual + at + j)));
    }
  }
};

// The activation of sixteen numbers and, unless it is null, its slope.
template <Activated (*function)(__m512)>
inline void activated(__m512 x, bf16* to, bf16* slope) {
  const Activated y = function(x);
  store(to, y.value);
  if (slope != nullptr) store(slope, y.slope);
}

// That of the first layer of an MLP.
template <Activated (*function)(__m512)>
struct Activate {
  bf16* to;
  bf16* slope;
  long stride;
  const float* bias;
  void operator()(long row, long column, const float* x, long width) const {
    const long at = row * stride + column;
    for (long j = 0; j < width; j += kVector) {
      const __m512 value = rounded(_mm512_add_ps(_mm512_loadu_ps(x + j), _mm512_loadu_ps(bias + column + j)));
      activated<function>(value, to + at + j, slope != nullptr ? slope + at + j : nullptr);
    }
  }
};

struct TimesSlope {
  const bf16* slope;
  bf16* to;
  long stride;
  void operator()(long row, long column, const float* x, long width) const {
    const long at = row * stride + column;
    for (long j = 0; j < width; j += kVector) {
      store(to + at + j, _mm512_mul_ps(rounded(_mm512_loadu_ps(x + j)), load(slope + at + j)));
    }
  }
};

}  // namespace

namespace ssl_fused {

bool available() {
  static const bool found = __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                            __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  return found;
}

void pack(const float* weight, long rows, long columns, bf16* to) {
  panels_of_rows(weight, columns, rows, columns, to);
}

void pack_transpose(const float* weight, long rows, long columns, bf16* to) {
  panels_of_transpose(weight, columns, rows, columns, to);
}

void norm(const Norm& with, const float* x, long rows, bf16* y, float* moments) {
  const long width = with.width;
  const float scale = 1.f / (float)width;
  for (long row = 0; row < rows; ++row, x += width, y += width) {
    __m512 total = _mm512_setzero_ps();
    for (long j = 0; j < width; j += kVector) total = _mm512_add_ps(total, _mm512_loadu_ps(x + j));
    const float mean = sum(total) * scale;
    __m512 squares = _mm512_setzero_ps();
    for (long j = 0; j < width; j += kVector) {
      const __m512 from_mean = _mm512_sub_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(mean));
      squares = _mm512_fmadd_ps(from_mean, from_mean, squares);
    }
    const float inverse = 1.f / __builtin_sqrtf(sum(squares) * scale + with.eps);
    for (long j = 0; j < width; j += kVector) {
      const __m512 from_mean = _mm512_sub_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(mean));
      const __m512 slope = _mm512_mul_ps(_mm512_loadu_ps(with.weight + j), _mm512_set1_ps(inverse));
      store(y + j, _mm512_fmadd_ps(from_mean, slope, _mm512_loadu_ps(with.bias + j)));
    }
    moments[2 * row] = mean;
    moments[2 * row + 1] = inverse;
  }
}

void norm_backward(const Norm& with, const float* x, const float* moments, const bf16* dy, long rows,
                   const float* through, float* dx, float* sums) {
  const long width = with.width;
  const float scale = 1.f / (float)width;
  for (long row = 0; row < rows; ++row, x += width, dy += width, dx += width) {
    const __m512 mean = _mm512_set1_ps(moments[2 * row]);
    const __m512 inverse = _mm512_set1_ps(moments[2 * row + 1]);
    __m512 plain = _mm512_setzero_ps();
    __m512 along = _mm512_setzero_ps();
    for (long j = 0; j < width; j += kVector) {
      const __m512 at = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + j), mean), inverse);
      const __m512 gradient = load(dy + j);
      float* to = sums + j;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(gradient, at, _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + width, _mm512_add_ps(gradient, _mm512_loadu_ps(to + width)));
      const __m512 scaled = _mm512_mul_ps(gradient, _mm512_loadu_ps(with.weight + j));
      plain = _mm512_add_ps(plain, scaled);
      along = _mm512_fmadd_ps(scaled, at, along);
    }
    const __m512 of_plain = _mm512_set1_ps(sum(plain) * scale);
    const __m512 of_along = _mm512_set1_ps(sum(along) * scale);
    for (long j = 0; j < width; j += kVector) {
      const __m512 at = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + j), mean), inverse);
      const __m512 scaled = _mm512_mul_ps(load(dy + j), _mm512_loadu_ps(with.weight + j));
      const __m512 rest = _mm512_sub_ps(_mm512_sub_ps(scaled, of_plain), _mm512_mul_ps(at, of_along));
      const __m512 around = through != nullptr ? _mm512_loadu_ps(through + row * width + j) : _mm512_setzero_ps();
      _mm512_storeu_ps(dx + j, _mm512_fmadd_ps(rest, inverse, around));
    }
  }
}

void activate(const Mlp& of, const bf16* x, long rows, bf16* inner, bf16* slope) {
  for (long i = 0; i < rows * of.hidden; i += kVector) {
    bf16* own = slope != nullptr ? slope + i : nullptr;
    if (of.approximate) {
      activated<gelu_tanh>(load(x + i), inner + i, own);
    } else {
      activated<gelu>(load(x + i), inner + i, own);
    }
  }
}

void times_slope(const bf16* slope, long count, bf16* x) {
  for (long i = 0; i < count; i += kVector) store(x + i, _mm512_mul_ps(load(x + i), load(slope + i)));
}

void add(const bf16* x, const float* residual, long count, float* to) {
  for (long i = 0; i < count; i += kVector) {
    _mm512_storeu_ps(to + i, _mm512_add_ps(load(x + i), _mm512_loadu_ps(residual + i)));
  }
}

void halve(const float* x, long count, bf16* to) {
  for (long i = 0; i < count; i += kVector) store(to + i, _mm512_loadu_ps(x + i));
}

void mlp(const Mlp& of, const bf16* x, const float* residual, long rows, const bf16* first, const float* first_bias,
         const bf16* second, const float* second_bias, bf16* inner, bf16* slope, float* y) {
  const Left left = plain(x, of.width);
  if (of.approximate) {
    product(left, rows, first, of.width / 2, of.hidden, Activate<gelu_tanh>{inner, slope, of.hidden, first_bias});
  } else {
    product(left, rows, first, of.width / 2, of.hidden, Activate<gelu>{inner, slope, of.hidden, first_bias});
  }
  product(plain(inner, of.hidden), rows, second, of.hidden / 2, of.width,
          Residual{residual, y, of.width, second_bias});
}

void mlp_backward(const Mlp& of, const float* dy, long rows, const bf16* slope, const bf16* first, const bf16* second,
                  bf16* dy_half, bf16* dinner, bf16* dx) {
  halve(dy, rows * of.width, dy_half);
  product(plain(dy_half, of.width), rows, second, of.width / 2, of.hidden, TimesSlope{slope, dinner, of.hidden});
  product(plain(dinner, of.hidden), rows, first, of.hidden / 2, of.width, Half{dx, of.width, nullptr});
}

// Rows that enter a product over rows at once: what they need stays in the second cache.
static constexpr long kRows = 256;

long weight_scratch(long rows_of_weight, long in) { return kRows * (rows_of_weight + in + 32); }

void weight_gradient(const bf16* dy, long stride, const bf16* x, long rows, long rows_of_weight, long in, float* dweight,
                     float* dbias, bf16* scratch) {
  // An odd number of cache lines, so that pairs lie in all parts of the first cache.
  const long stride_of_pairs = 2 * rows_of_weight + (rows_of_weight / kVector % 2 == 0 ? 32 : 0);
  bf16* left = scratch;
  bf16* right = scratch + kRows / 2 * stride_of_pairs;
  for (long i = 0; i < rows_of_weight; ++i) dbias[i] = 0;
  for (long row = 0; row < rows; row += kRows) {
    const long some = rows - row < kRows ? rows - row : kRows;
    const long pairs = (some + 1) / 2;
    pairs_of_rows(dy + row * stride, stride, some, rows_of_weight, left, stride_of_pairs);
    add_sums(left, stride_of_pairs, pairs, rows_of_weight, dbias);
    panels_of_rows(x + row * in, in, some, in, right);
    const bf16* panel = right;
    for (long column = 0; column < in; column += kPanel) {
      const long width = in - column < kPanel ? in - column : kPanel;
      for (long i = 0; i < rows_of_weight;) {
        const Shape shape_ = shape(width / kVector, rows_of_weight - i);
        shape_.tile(pairs, {left + 2 * i, 2, stride_of_pairs}, panel, dweight + i * in + column, in, row != 0);
        i += shape_.rows;
      }
      panel += 2 * pairs * width;
    }
  }
}

}  // namespace ssl_fused

#include "attention.h"
