// Attention of short sequences, one example and head at a time; all that it needs stays in the caches.
#pragma once

#include "gemm.h"
#include "kernels.h"

namespace {

using ssl_fused::Attention;

// Queries, keys and values lie side by side.
constexpr long kParts = 3;

// Scratch memory of one example and head.
struct Room {
  float* logits;
  bf16* transposed;
  bf16* panels;
  bf16* slopes;
  bf16* pairs;
};

inline long room_size(long n, long padded, long head) {
  return 4 * (n + 1) * padded + head * padded + (n + 1) * head;
}

inline Room room(bf16* at, long n, long padded, long head) {
  Room room;
  room.logits = (float*)at;
  room.transposed = at + 2 * n * padded;
  room.panels = room.transposed + head * padded;
  room.slopes = room.panels + (n + 1) * head;
  room.pairs = room.slopes + n * padded;
  return room;
}

// The softmax over the first `seen` of a row of logits times `scale`; what is behind them becomes zero.
inline void softmax(float* x, long seen, long padded, float scale, bf16* to) {
  for (long j = seen; j < padded; ++j) x[j] = -__builtin_inff();
  __m512 largest = _mm512_loadu_ps(x);
  for (long j = kVector; j < padded; j += kVector) largest = _mm512_max_ps(largest, _mm512_loadu_ps(x + j));
  const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 total = _mm512_setzero_ps();
  for (long j = 0; j < padded; j += kVector) {
    const __m512 logits = _mm512_loadu_ps(x + j);
    const __m512 below = _mm512_mul_ps(_mm512_sub_ps(logits, most), _mm512_set1_ps(scale));
    const long left = seen - j;
    const __mmask16 some = left >= kVector ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
    const __m512 e = _mm512_maskz_mov_ps(some, exponential(below));
    total = _mm512_add_ps(total, e);
    _mm512_storeu_ps(x + j, e);
  }
  const __m512 inverse = _mm512_set1_ps(1.f / sum(total));
  for (long j = 0; j < padded; j += kVector) store(to + j, _mm512_mul_ps(_mm512_loadu_ps(x + j), inverse));
}

// The gradient of logits from that of their softmax.
inline void softmax_backward(const float* x, const bf16* weights, long padded, float scale, bf16* to) {
  __m512 total = _mm512_setzero_ps();
  for (long j = 0; j < padded; j += kVector) {
    total = _mm512_fmadd_ps(_mm512_loadu_ps(x + j), load(weights + j), total);
  }
  const __m512 mean = _mm512_set1_ps(sum(total));
  for (long j = 0; j < padded; j += kVector) {
    const __m512 scaled = _mm512_mul_ps(load(weights + j), _mm512_set1_ps(scale));
    store(to + j, _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + j), mean), scaled));
  }
}

inline float scale_of(long head) { return 1.f / __builtin_sqrtf((float)head); }

// One example and head: `q` is in rows of three times the width.
inline void mix_one(const Attention& of, const bf16* q, bf16* weights, bf16* mixed, bf16* scratch) {
  const long n = of.n;
  const long padded = rounded_up(n, kVector);
  const long head = of.width / of.heads;
  const long stride = kParts * of.width;
  const Room space = room(scratch, n, padded, head);
  panels_of_transpose(q + of.width, stride, n, head, space.transposed);
  product(plain(q, stride), n, space.transposed, head / 2, padded, space.logits, padded);
  for (long i = 0; i < n; ++i) {
    softmax(space.logits + i * padded, of.causal ? i + 1 : n, padded, scale_of(head), weights + i * padded);
  }
  panels_of_rows(q + 2 * of.width, stride, n, head, space.panels);
  product(plain(weights, padded), n, space.panels, (n + 1) / 2, head, Half{mixed, of.width, nullptr});
}

inline void mix_one_backward(const Attention& of, const bf16* q, const bf16* weights, const bf16* dmixed, bf16* dq,
                         bf16* scratch) {
  const long n = of.n;
  const long padded = rounded_up(n, kVector);
  const long head = of.width / of.heads;
  const long stride = kParts * of.width;
  const long pairs = (n + 1) / 2;
  const Room space = room(scratch, n, padded, head);
  const Left across = {space.pairs, 2, 2 * padded};
  panels_of_transpose(q + 2 * of.width, stride, n, head, space.transposed);
  product(plain(dmixed, of.width), n, space.transposed, head / 2, padded, space.logits, padded);
  for (long i = 0; i < n; ++i) {
    const long at = i * padded;
    softmax_backward(space.logits + at, weights + at, padded, scale_of(head), space.slopes + at);
  }
  pairs_of_rows(weights, padded, n, padded, space.pairs, 2 * padded);
  panels_of_rows(dmixed, of.width, n, head, space.panels);
  product(across, n, space.panels, pairs, head, Half{dq + 2 * of.width, stride, nullptr});
  panels_of_rows(q + of.width, stride, n, head, space.panels);
  product(plain(space.slopes, padded), n, space.panels, pairs, head, Half{dq, stride, nullptr});
  pairs_of_rows(space.slopes, padded, n, padded, space.pairs, 2 * padded);
  panels_of_rows(q, stride, n, head, space.panels);
  product(across, n, space.panels, pairs, head, Half{dq + of.width, stride, nullptr});
}

}  // namespace

namespace ssl_fused {

long padded(long n) { return rounded_up(n, kVector); }

long attention_scratch(const Attention& of, long examples) {
  return examples * of.n * of.width + room_size(of.n, padded(of.n), of.width / of.heads);
}

void mix(const Attention& of, long examples, const bf16* qkv, bf16* weights, bf16* mixed, bf16* scratch) {
  const long head = of.width / of.heads;
  for (long example = 0; example < examples; ++example) {
    for (long h = 0; h < of.heads; ++h) {
      const long row = example * of.n;
      bf16* own = weights + (example * of.heads + h) * of.n * padded(of.n);
      mix_one(of, qkv + kParts * row * of.width + h * head, own, mixed + row * of.width + h * head, scratch);
    }
  }
}

void mix_backward(const Attention& of, long examples, const bf16* qkv, const bf16* weights, const bf16* dmixed,
                  bf16* dqkv, bf16* scratch) {
  const long head = of.width / of.heads;
  for (long example = 0; example < examples; ++example) {
    for (long h = 0; h < of.heads; ++h) {
      const long row = example * of.n;
      const bf16* own = weights + (example * of.heads + h) * of.n * padded(of.n);
      const long at = kParts * row * of.width + h * head;
      mix_one_backward(of, qkv + at, own, dmixed + row * of.width + h * head, dqkv + at, scratch);
    }
  }
}

void attention(const Attention& of, const bf16* x, const float* residual, long examples, const bf16* qkv_weight,
               const float* qkv_bias, const bf16* proj_weight, const float* proj_bias, bf16* qkv, bf16* weights,
               bf16* mixed, float* y, bf16* scratch) {
  const long rows = examples * of.n;
  const long stride = kParts * of.width;
  product(plain(x, of.width), rows, qkv_weight, of.width / 2, stride, Half{qkv, stride, qkv_bias});
  mix(of, examples, qkv, weights, mixed, scratch);
  product(plain(mixed, of.width), rows, proj_weight, of.width / 2, of.width,
          Residual{residual, y, of.width, proj_bias});
}

void attention_backward(const Attention& of, const float* dy, long examples, const bf16* qkv, const bf16* weights,
                        const bf16* qkv_weight, const bf16* proj_weight, bf16* dy_half, bf16* dqkv, bf16* dx,
                        bf16* scratch) {
  const long rows = examples * of.n;
  const long stride = kParts * of.width;
  bf16* dmixed = scratch;
  halve(dy, rows * of.width, dy_half);
  product(plain(dy_half, of.width), rows, proj_weight, of.width / 2, of.width, Half{dmixed, of.width, nullptr});
  mix_backward(of, examples, qkv, weights, dmixed, dqkv, scratch + rows * of.width);
  product(plain(dqkv, stride), rows, qkv_weight, stride / 2, of.width, Half{dx, of.width, nullptr});
}

}  // namespace ssl_fused
