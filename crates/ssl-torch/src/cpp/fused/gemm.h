// Matrix products of bfloat16 with sums in float32, for processors with AVX512-BF16: a tile of the result stays in
// registers, and what follows the product runs on each of its rows while it is in the first cache.
//
// Only the file that includes this may be compiled for AVX512; nothing here has external linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

using bf16 = std::uint16_t;

constexpr long kVector = 16;
// Columns of a panel: with four rows a tile has 24 sums, which leaves registers for what is multiplied.
constexpr long kPanel = 96;

inline long rounded_up(long n, long to) { return (n + to - 1) / to * to; }

inline __m512 load(const bf16* x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16));
}

inline void store(bf16* x, __m512 value) { _mm256_storeu_si256((__m256i*)x, (__m256i)_mm512_cvtneps_pbh(value)); }

inline __m512 rounded(__m512 value) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(value)), 16));
}

// The left matrix: the pair of elements (row, 2 k) and (row, 2 k + 1) is at `data + row * by_row + k * by_pair`.
struct Left {
  const bf16* data;
  long by_row;
  long by_pair;
};

inline Left plain(const bf16* data, long width) { return {data, width, 2}; }

// `rows` by `16 * V` of a product over `pairs`, added to what is at `c` if `add`.
template <int R, int V>
__attribute__((noinline)) void tile(long pairs, const Left& a, const bf16* b, float* c, long width, bool add) {
  __m512 sums[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sums[i][v] = _mm512_setzero_ps();
  }
  const bf16* at = a.data;
  const long by_row = a.by_row;
  const long by_pair = a.by_pair;
  for (long k = 0; k < pairs; ++k) {
    __m512bh right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      int pair;
      std::memcpy(&pair, at + i * by_row, sizeof pair);
      const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], left, right[v]);
    }
    at += by_pair;
    b += 32 * V;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* to = c + i * width + kVector * v;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sums[i][v]) : sums[i][v]);
    }
  }
}

using Tile = void (*)(long, const Left&, const bf16*, float*, long, bool);

struct Shape {
  Tile tile;
  long rows;
};

// The largest tile of `v` vectors that has at most `rows` rows.
inline Shape shape(long v, long rows) {
  static const Tile ones[] = {tile<1, 1>, tile<1, 2>, tile<1, 3>, tile<1, 4>, tile<1, 5>, tile<1, 6>};
  static const Tile fours[] = {tile<4, 1>, tile<4, 2>, tile<4, 3>, tile<4, 4>, tile<4, 5>, tile<4, 6>};
  static const Tile most[] = {tile<8, 1>, tile<8, 2>, tile<8, 3>, tile<6, 4>};
  const long large = v < 4 ? 8 : 6;
  if (v <= 4 && rows >= large) return {most[v - 1], large};
  return rows >= 4 ? Shape{fours[v - 1], 4} : Shape{ones[v - 1], 1};
}

// `a` of `rows` rows times panels, `columns` of them in all, over `pairs`. Each row of a tile goes to
// `after(row, column, sums, width)`.
template <typename After>
inline void product(const Left& a, long rows, const bf16* b, long pairs, long columns, After after) {
  alignas(64) float sums[8 * kPanel];
  for (long column = 0; column < columns; column += kPanel) {
    const long width = columns - column < kPanel ? columns - column : kPanel;
    for (long row = 0; row < rows;) {
      const Shape of = shape(width / kVector, rows - row);
      of.tile(pairs, {a.data + row * a.by_row, a.by_row, a.by_pair}, b, sums, width, false);
      for (long i = 0; i < of.rows; ++i) after(row + i, column, sums + i * width, width);
      row += of.rows;
    }
    b += 2 * pairs * width;
  }
}

// The same where the sums are wanted as they are, in rows of `stride`.
inline void product(const Left& a, long rows, const bf16* b, long pairs, long columns, float* to, long stride) {
  for (long column = 0; column < columns; column += kPanel) {
    const long width = columns - column < kPanel ? columns - column : kPanel;
    for (long row = 0; row < rows;) {
      const Shape of = shape(width / kVector, rows - row);
      of.tile(pairs, {a.data + row * a.by_row, a.by_row, a.by_pair}, b, to + row * stride + column, stride, false);
      row += of.rows;
    }
    b += 2 * pairs * width;
  }
}

// Of two rows, 16 columns or the first 32 of more, as pairs; the second row may be null, for zeros.
inline void interleave(const bf16* first, const bf16* second, long columns, bf16* to) {
  const __mmask32 some = columns < 2 * kVector ? 0xffff : 0xffffffff;
  const __m512i a = _mm512_maskz_loadu_epi16(some, first);
  const __m512i b = second != nullptr ? _mm512_maskz_loadu_epi16(some, second) : _mm512_setzero_si512();
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                       36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
  if (columns >= 2 * kVector) {
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(kVector));
    _mm512_storeu_si512(to + 2 * kVector, _mm512_permutex2var_epi16(a, high, b));
  }
}

// The same, rounded.
inline void interleave(const float* first, const float* second, long columns, bf16* to) {
  bf16 halves[2][2 * kVector];
  for (long j = 0; j < columns && j < 2 * kVector; j += kVector) {
    store(halves[0] + j, _mm512_loadu_ps(first + j));
    if (second != nullptr) store(halves[1] + j, _mm512_loadu_ps(second + j));
  }
  interleave(halves[0], second != nullptr ? halves[1] : nullptr, columns, to);
}

// Panels of `x`, `[rows, columns]`, for a product over its rows; an odd last row pairs with zeros.
template <typename T>
inline void panels_of_rows(const T* x, long stride, long rows, long columns, bf16* to) {
  const long pairs = (rows + 1) / 2;
  for (long column = 0; column < columns; column += kPanel) {
    const long width = columns - column < kPanel ? columns - column : kPanel;
    for (long k = 0; k < pairs; ++k) {
      const T* first = x + 2 * k * stride + column;
      const T* second = 2 * k + 1 < rows ? first + stride : nullptr;
      for (long j = 0; j < width; j += 2 * kVector) {
        interleave(first + j, second != nullptr ? second + j : nullptr, width - j, to + 2 * j);
      }
      to += 2 * width;
    }
  }
}

// The transpose of sixteen by sixteen elements of 32 bits.
inline void transpose(__m512i x[16]) {
  __m512i y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
  }
}

inline __m512i sixteen_pairs(const bf16* x) { return _mm512_loadu_si512(x); }
inline __m512i sixteen_pairs(const float* x) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + kVector), _mm512_loadu_ps(x));
}

// Panels of the transpose of `x`, `[rows, columns]`, for a product over its columns, a multiple of 32; rows up to the
// next multiple of 16 are zeros.
template <typename T>
inline void panels_of_transpose(const T* x, long stride, long rows, long columns, bf16* to) {
  const long padded = rounded_up(rows, kVector);
  const long pairs = columns / 2;
  for (long panel = 0; panel < padded; panel += kPanel) {
    const long width = padded - panel < kPanel ? padded - panel : kPanel;
    for (long j = 0; j < width; j += kVector) {
      for (long k = 0; k < pairs; k += kVector) {
        __m512i block[16];
        for (long i = 0; i < kVector; ++i) {
          const long row = panel + j + i;
          block[i] = row < rows ? sixteen_pairs(x + row * stride + 2 * k) : _mm512_setzero_si512();
        }
        transpose(block);
        for (long i = 0; i < kVector; ++i) _mm512_storeu_si512(to + 2 * ((k + i) * width + j), block[i]);
      }
    }
    to += 2 * pairs * width;
  }
}

// `x`, `[rows, columns]`, as pairs of rows, for the left side of a product over its rows: the pair of rows 2 k and
// 2 k + 1 begins at `to + k * stride_to`.
inline void pairs_of_rows(const bf16* x, long stride, long rows, long columns, bf16* to, long stride_to) {
  for (long k = 0; k < (rows + 1) / 2; ++k) {
    const bf16* first = x + 2 * k * stride;
    const bf16* second = 2 * k + 1 < rows ? first + stride : nullptr;
    for (long j = 0; j < columns; j += 2 * kVector) {
      interleave(first + j, second != nullptr ? second + j : nullptr, columns - j, to + k * stride_to + 2 * j);
    }
  }
}

// Adds the sums of the columns of such pairs to `total`.
inline void add_sums(const bf16* x, long stride, long pairs, long columns, float* total) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (long j = 0; j < columns; j += kVector) {
    __m512 sum = _mm512_loadu_ps(total + j);
    for (long k = 0; k < pairs; ++k) {
      sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(x + k * stride + 2 * j), ones);
    }
    _mm512_storeu_ps(total + j, sum);
  }
}

}  // namespace
