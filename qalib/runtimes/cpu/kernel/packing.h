// Tokens to panels: transposed, and for int8 weights quantised on the way.
//
//     x [token][input]                 panel [input / STEP][across][STEP]
//
//     | a0 a1 a2 a3 ... |              | a0 b0 c0 d0 |
//     | b0 b1 b2 b3 ... |      ->      | a1 b1 c1 d1 |
//     | c0 c1 c2 c3 ... |              | a2 b2 c2 d2 |
//     | d0 d1 d2 d3 ... |              |     ...     |

#pragma once

#include "vectors.h"

namespace qalib {
namespace {

template <class P>
struct Packing : P {
  using typename P::item, typename P::wholes;
  using P::LANES, P::STEP;

  typedef uint32_t four __attribute__((vector_size(16)));  // items
  INLINE static four take(const item* from) { return P::template read<four>(from); }

  // Tokens that are `stride` items apart, of each `size` items, to [size][across].
  static void transpose(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across) {
    for (int64_t k = 0; k < size; k += 4) {
      const int64_t wide = size - k < 4 ? size - k : 4;
      int64_t t = 0;
      for (; wide == 4 && t + 4 <= tokens; t += 4) {
        const item* from = x + t * stride + k;
        item* to = panel + k * across + t;
        const four a = take(from), b = take(from + stride), c = take(from + 2 * stride), d = take(from + 3 * stride);
        const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        const four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        P::write(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), to);
        P::write(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), to + across);
        P::write(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), to + 2 * across);
        P::write(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), to + 3 * across);
      }
      for (; t < tokens; t++)
        for (int64_t i = 0; i < wide; i++) panel[(k + i) * across + t] = x[t * stride + k + i];
    }
  }

  // bf16 tokens for float32 weights.
  static void pack(const uint16_t* x, int64_t size, int64_t stride, int64_t tokens, float* panel, int64_t across,
                   int64_t = 0) {
    constexpr int64_t PART = 64, SOME = P::WIDE * LANES;
    float rows[SOME][PART];
    for (int64_t first = 0; first < tokens; first += SOME, x += SOME * stride)
      for (int64_t k = 0; k < size; k += PART) {
        const int64_t part = size - k < PART ? size - k : PART, some = tokens - first < SOME ? tokens - first : SOME;
        for (int64_t t = 0; t < some; t++)
          for (int64_t i = 0; i < part; i += LANES) P::store(P::load(x + t * stride + k + i, part - i), rows[t] + i);
        transpose(rows[0], part, PART, some, panel + k * across + first, across);
      }
  }

  // One token to ZERO + x / scale in steps of its scale, which it returns; NaN if there is one in it.
  template <class T, class Q>
  INLINE static float quantise(const T* x, int64_t inputs, Q* to) {
    wholes most = {};  // bits of a size are in the order of sizes, those of NaN above all
    for (int64_t k = 0; k < inputs; k += LANES) {
      const wholes size = (wholes)P::load(x + k, inputs - k) & 0x7fffffff;
      most = size > most ? size : most;
    }
    int32_t all[LANES];
    __builtin_memcpy(all, &most, sizeof most);
    const int32_t bits = *std::max_element(all, all + LANES);
    float highest;
    __builtin_memcpy(&highest, &bits, 4);
    const float inverse = highest > 0 ? 127 / highest : 0;
    for (int64_t k = 0; k < inputs; k += LANES) {
      // added to 1.5 * 2^23, a number is rounded to a whole one in the lowest bits
      const auto value = P::load(x + k, inputs - k) * inverse + (12582912.0f + P::ZERO);
      P::quantise((wholes)value, to + k);
    }
    return highest / 127;
  }

  // Items of tokens to a panel that holds `across` of them; to that of tiles if there is a `depth`.
  INLINE static void pack(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across,
                          int64_t depth = 0) {
    if constexpr (P::TILES)
      if (depth) return P::pack_rows(x, size, stride, tokens, panel, depth);
    transpose(x, size, stride, tokens, panel, across);
  }

  // A panel of tokens of x; `rows` is room for quantised tokens, `scales` for their scales.
  template <class T>
  INLINE static void pack_panel(const Weight& w, const T* x, int64_t tokens, item* panel, item* rows, float* scales,
                                int64_t across, int64_t depth = 0) {
    const int64_t size = w.inputs / STEP;
    if constexpr (P::STORED == Stored::int8) {
      for (int64_t t = 0; t < tokens; t++)
        scales[t] = quantise(x + t * w.inputs, w.inputs, (typename P::quantised*)(rows + t * size));
      pack(rows, size, size, tokens, panel, across, depth);
    } else if constexpr (P::STORED == Stored::half) {
      pack((const item*)x, size, size, tokens, panel, across, depth);
    } else {
      pack(x, size, size, tokens, panel, across, depth);
    }
  }
};

}  // namespace
}  // namespace qalib
