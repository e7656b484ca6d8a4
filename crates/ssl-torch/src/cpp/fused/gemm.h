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

// Sixteen columns of two rows as sixteen pairs.
inline __m512i interleaved(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

inline __m256i columns_of(const bf16* x) { return _mm256_loadu_si256((const __m256i*)x); }
inline __m256i columns_of(const float* x) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)); }

// Panels of `x`, `[rows, columns]`, for a product over its rows; an odd last row pairs with zeros.
template <typename T>
inline void panels_of_rows(const T* x, long stride, long rows, long columns, bf16* to) {
  const long pairs = (rows + 1) / 2;
  for (long column = 0; column < columns; column += kPanel) {
    const long width = columns - column < kPanel ? columns - column : kPanel;
    for (long k = 0; k < pairs; ++k) {
      const T* first = x + 2 * k * stride + column;
      const bool both = 2 * k + 1 < rows;
      for (long j = 0; j < width; j += kVector) {
        const __m256i second = both ? columns_of(first + stride + j) : _mm256_setzero_si256();
        _mm512_storeu_si512(to, interleaved(columns_of(first + j), second));
        to += 2 * kVector;
      }
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
// 2 k + 1 begins at `to + k * stride_to`. Adds the sums of the columns to `total` if it is not null.
inline void pairs_of_rows(const bf16* x, long stride, long rows, long columns, bf16* to, long stride_to,
                          float* total) {
  for (long k = 0; k < (rows + 1) / 2; ++k) {
    const bf16* first = x + 2 * k * stride;
    const bool both = 2 * k + 1 < rows;
    for (long j = 0; j < columns; j += kVector) {
      const __m512i pairs =
          interleaved(columns_of(first + j), both ? columns_of(first + stride + j) : _mm256_setzero_si256());
      _mm512_storeu_si512(to + k * stride_to + 2 * j, pairs);
      if (total != nullptr) {
        const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        const __m512 high = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
        const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(total + j), _mm512_add_ps(low, high));
        _mm512_storeu_ps(total + j, sum);
      }
    }
  }
}

}  // namespace
