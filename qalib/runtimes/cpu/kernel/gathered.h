// Blocks narrower than an item, in int8: of a strip of four rows the kept inputs, wherever they are, four at a time.
//
//     panel [input][token], bytes      columns[b ... b + 3]        values of b ... b + 3
//
//     | input i | of ACROSS tokens |
//     | input j |                  |       | i j k l |            [row][4], 0 for an input that fills up
//     | input k |                  |
//     | input l |                  |   ->  | tokens | x | i j k l |   *   4 weights of a row, spread   +=   sums of it
//
// (Shen et al. 2023, arXiv 2306.16601, section 3.2.) Sums are transposed, LANES rows at a time, and go on as those of a
// strip do.

#pragma once

#include "epilogue.h"
#include "packing.h"

namespace qalib {
namespace {

template <class P>
struct Gathered : P {
  using typename P::item, typename P::weight, typename P::number, typename P::vec;
  using P::LANES, P::STEP, P::repeat, P::add_tokens;

  static constexpr int VECTORS = 4, ACROSS = VECTORS * LANES;

  // The sums of a strip, COUNT vectors of tokens a row.
  template <int COUNT>
  static void multiply_strip(const Weight& w, const uint8_t* panel, int64_t strip, number* sums) {
    vec sum[GATHERED][COUNT];
    UNROLL for (int r = 0; r < GATHERED; r++)
      UNROLL for (int v = 0; v < COUNT; v++) sum[r][v] = vec{} + P::starts(w)[strip * GATHERED + r];
    const weight* values = (const weight*)w.values + w.starts[strip];
    const int32_t *column = w.columns + w.starts[strip], *end = w.columns + w.starts[strip + 1];
    for (; column < end; column += STEP, values += GATHERED) {
      vec x[VECTORS];
      P::interleave(panel + column[0] * ACROSS, panel + column[1] * ACROSS, panel + column[2] * ACROSS,
                    panel + column[3] * ACROSS, x);
      UNROLL for (int r = 0; r < GATHERED; r++) {
        const auto same = repeat(values[r]);
        UNROLL for (int v = 0; v < COUNT; v++) add_tokens(sum[r][v], x[v], same);
      }
    }
    UNROLL for (int r = 0; r < GATHERED; r++)
      UNROLL for (int v = 0; v < COUNT; v++) P::write(sum[r][v], sums + r * ACROSS + v * LANES);
  }

  typedef void (*MultiplyStrip)(const Weight&, const uint8_t*, int64_t, number*);
  INLINE static MultiplyStrip strips_of(int64_t tokens) {
    return tokens > 3 * LANES   ? multiply_strip<4>
           : tokens > 2 * LANES ? multiply_strip<3>
           : tokens > LANES     ? multiply_strip<2>
                                : multiply_strip<1>;
  }

  template <class T>
  static void multiply(const Weight& w, const T* x, T* y, int64_t tokens, Workspace& workspace) {
    const int64_t size = (w.inputs + STEP - 1) / STEP;
    item *panel = workspace.take<item>(0, ACROSS * size), *rows = workspace.take<item>(1, ACROSS * size + LANES);
    number *sums = workspace.take<number>(2, LANES * ACROSS), *turned = workspace.take<number>(3, LANES * ACROSS);
    float* scales = workspace.take<float>(4, ACROSS);
    std::memset(sums, 0, LANES * ACROSS * sizeof(number));  // of rows below the last, which are transposed, too
    for (; tokens > 0; tokens -= ACROSS, x += ACROSS * w.inputs, y += ACROSS * w.outputs) {
      const int64_t count = tokens < ACROSS ? tokens : ACROSS;
      if (count < ACROSS) std::memset(panel, 0, ACROSS * size * sizeof(item));
      for (int64_t t = 0; t < count; t++)
        scales[t] = Packing<P>::quantise(x + t * w.inputs, w.inputs, (uint8_t*)(rows + t * size));
      Packing<P>::transpose(rows, size, size, count, panel, ACROSS);
      for (int64_t k = 0; k < size; k++) P::separate(panel + k * ACROSS);
      const MultiplyStrip multiply = strips_of(count);
      for (int64_t output = 0; output < w.outputs; output += LANES) {
        const int64_t some = std::min<int64_t>(w.outputs - output, LANES);
        for (int64_t r = 0; r < some; r += GATHERED)
          multiply(w, (const uint8_t*)panel, (output + r) / GATHERED, sums + r * ACROSS);
        Packing<P>::transpose((const item*)sums, ACROSS, ACROSS, LANES, (item*)turned, LANES);
        Epilogue<P>::finish(w, turned, LANES, scales, count, output, some, y + output, w.outputs);
      }
    }
  }
};

}  // namespace
}  // namespace qalib
