// The product of a panel of tokens and a strip of a weight, by vectors of LANES sums, one token's each:
//
//     panel [input / STEP][token][STEP]      strip [input / STEP][lanes][STEP], kept blocks only
//
//               x[t]                             | row[0] ... row[WIDTH - 1] |
//          one number, spread       *            |   WIDTH vectors of rows   |     += sum[t][0 ... WIDTH - 1]
//
// ROWS x WIDE sums stay in registers over all kept blocks of the strip.

#pragma once

#include "vectors.h"

namespace qalib {
namespace {

template <class Format, int TOKENS_OF_PANEL, int VECTORS_OF_STRIP>
struct VectorProduct : Format {
  using typename Format::item, typename Format::weight, typename Format::number, typename Format::vec;
  using Format::LANES, Format::STEP, Format::CHAIN, Format::fetch, Format::spread, Format::add, Format::starts;

  static constexpr int ROWS = TOKENS_OF_PANEL, WIDE = VECTORS_OF_STRIP;
  static constexpr int64_t WHOLE = 1;       // what parts of the tokens are a multiple of
  static constexpr bool TILES = false;      // panels are [input / depth][token][depth] for a depth of 1
  static constexpr bool FROM_ZERO = false;  // sums begin with what `starts` gives
  static constexpr bool NARROW = true;      // blocks may have fewer rows than a vector

  struct Tiles {  // nothing to be set
    void shape(int64_t) {}
  };
  INLINE static int64_t depth_of(int64_t) { return 1; }
  INLINE static int64_t blocks_in_chain(const Weight& w) { return w.width < CHAIN ? CHAIN / w.width : 1; }

  // The room for tokens that a panel of some has, and the first token of a panel: they are as even as can be.
  INLINE static int64_t held(int64_t tokens) { return tokens; }
  INLINE static int64_t first_of(int64_t panel, int64_t panels, int64_t tokens) { return tokens * panel / panels; }

  // The sums of one panel and one strip. Registers hold those of at most CHAIN inputs, as long chains round more.
  template <int TOKENS, int WIDTH>
  static void multiply(const Weight& w, const item* panel, int64_t strip, number* sums) {
    const number* start = starts(w) + strip * w.lanes;
    const auto total = [&](int t, int v) { return sums + (t * WIDTH + v) * LANES; };
    vec sum[TOKENS][WIDTH];
    UNROLL for (int t = 0; t < TOKENS; t++)
      UNROLL for (int v = 0; v < WIDTH; v++) Format::write(Format::template read<vec>(start + v * LANES), total(t, v));
    const weight* values = (const weight*)w.values + w.starts[strip] * (w.width / STEP) * w.lanes;
    const int64_t chain = blocks_in_chain(w), end = w.starts[strip + 1], steps = w.width / STEP;
    for (int64_t b = w.starts[strip]; b < end;) {
      const int64_t until = b + chain < end ? b + chain : end;
      asm volatile("" ::: "memory");  // or gcc holds totals in registers, too, and spills
      UNROLL for (int t = 0; t < TOKENS; t++)
        UNROLL for (int v = 0; v < WIDTH; v++) sum[t][v] = vec{};
      for (; b < until; b++) {
        const item* x = panel + w.columns[b] / STEP * TOKENS;
        const item* next = panel + w.columns[b + (b + 1 < end)] / STEP * TOKENS;
        for (int64_t k = 0; k < steps; k++, x += TOKENS, values += WIDTH * LANES) {
          __builtin_prefetch(next + k * TOKENS);
          decltype(fetch(values)) row[WIDTH];
          UNROLL for (int v = 0; v < WIDTH; v++) row[v] = fetch(values + v * LANES);
          UNROLL for (int t = 0; t < TOKENS; t++) {
            const auto token = spread(x[t]);
            UNROLL for (int v = 0; v < WIDTH; v++) add(sum[t][v], token, row[v]);
          }
        }
      }
      UNROLL for (int t = 0; t < TOKENS; t++)
        UNROLL for (int v = 0; v < WIDTH; v++)
          Format::write(Format::template read<vec>(total(t, v)) + sum[t][v], total(t, v));
    }
  }

  typedef void (*Multiply)(const Weight&, const item*, int64_t, number*);
  template <int WIDTH, int TOKENS = ROWS>
  INLINE static Multiply of(int64_t tokens) {
    if constexpr (TOKENS > 1)
      if (tokens < TOKENS) return of<WIDTH, TOKENS - 1>(tokens);
    return multiply<TOKENS, WIDTH>;
  }

  // The inner loop of `multiply` with all it needs in registers: the processor's peak. Returns the multiply-adds.
  static int64_t peak(int64_t rounds) {
    vec sum[ROWS][WIDE] = {};
    weight some[LANES * WIDE] = {};
    decltype(fetch(some)) row[WIDE];
    UNROLL for (int v = 0; v < WIDE; v++) {
      row[v] = fetch(some + v * LANES);
      asm volatile("" : REGISTER(row[v]));  // or it is known to be zero
    }
    UNROLL for (int t = 0; t < ROWS; t++)  // or one sum would do for all, which are the same
      UNROLL for (int v = 0; v < WIDE; v++) asm volatile("" : REGISTER(sum[t][v]));
    for (int64_t round = 0; round < rounds; round++) {
      auto token = spread(item(round & 1));
      UNROLL for (int t = 0; t < ROWS; t++) {
        asm volatile("" : REGISTER(token));  // or what is the same for all tokens would be computed once
        UNROLL for (int v = 0; v < WIDE; v++) add(sum[t][v], token, row[v]);
      }
    }
    UNROLL for (int t = 0; t < ROWS; t++)
      UNROLL for (int v = 0; v < WIDE; v++) asm volatile("" : REGISTER(sum[t][v]));
    return rounds * ROWS * WIDE * LANES * STEP;
  }
};

}  // namespace
}  // namespace qalib
