// What becomes of sums: dequantised, through GELU, rounded to the type of y; residual and LayerNorm.
//
//     sums [token][rows of a strip]  ->  y [token][outputs], one strip's columns of it
//
//     y = LayerNorm(y + residual), row by row, once all strips of a tile are there

#pragma once

#include "vectors.h"

namespace qalib {
namespace {

template <class P>
struct Epilogue : P {
  using typename P::floats, typename P::number, typename P::vec;
  using P::LANES, P::load, P::store, P::total;

  // From sums, those of a token `stride` apart, to y, where tokens are `apart`: `count` outputs from `first` on, all of
  // LANES each if FULL.
  template <bool GELU, bool FULL, class T>
  INLINE static void finish_as(const Weight& w, const number* sums, int64_t stride, const float* scales, int64_t tokens,
                               int64_t first, int64_t count, T* y, int64_t apart) {
    for (int64_t i = 0; i < count; i += LANES) {
      const int64_t left = FULL ? LANES : count - i;
      floats scale, bias;
      if constexpr (P::STORED == Stored::int8)
        scale = load(w.scales + first + i, left), bias = load(w.bias + first + i, left);
      for (int64_t t = 0; t < tokens; t++) {
        const vec sum = P::template read<vec>(sums + t * stride + i);
        floats value;
        if constexpr (P::STORED == Stored::int8)
          value = P::to_floats(sum) * (scales[t] * scale) + bias;
        else
          value = sum;
        store(GELU ? P::gelu(value) : value, y + t * apart + i, left);
      }
    }
  }
  template <class T>
  static void finish(const Weight& w, const number* sums, int64_t stride, const float* scales, int64_t tokens,
                     int64_t first, int64_t count, T* y, int64_t apart) {
    const auto as = [&](auto gelu, auto full) {
      finish_as<gelu, full>(w, sums, stride, scales, tokens, first, count, y, apart);
    };
    const std::true_type yes;
    const std::false_type no;
    if (count % LANES)
      w.gelu ? as(yes, no) : as(no, no);
    else
      w.gelu ? as(yes, yes) : as(no, yes);
  }

  // f(v, i, left) for the numbers i ... i + LANES - 1 of a row, of which `left` are there, with v = 0 ... 3 in turn: of
  // four sums none waits for the last.
  template <class F>
  INLINE static void by_four(int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
      UNROLL for (int v = 0; v < 4; v++) f(v, i + v * LANES, LANES);
    for (; i < count; i += LANES) f(0, i, count - i);
  }
  INLINE static float total_of(const floats (&sums)[4]) { return total((sums[0] + sums[1]) + (sums[2] + sums[3])); }

  // LayerNorm(y + residual) in place, a token at a time; `sum` is room for one.
  template <class T>
  static void normalise(const Norm& norm, int64_t outputs, int64_t tokens, const T* residual, T* y, float* sum) {
    for (int64_t t = 0; t < tokens; t++, y += outputs, residual += outputs) {
      floats all[4] = {}, squares[4] = {};
      by_four(outputs, [&](int v, int64_t i, int64_t left) {
        const floats value = load(y + i, left) + load(residual + i, left);
        store(value, sum + i, left);
        all[v] += value;
      });
      const float mean = total_of(all) / outputs;
      std::fill(sum + outputs, sum + outputs + LANES, mean);  // what stands behind the row counts as 0
      by_four(outputs, [&](int v, int64_t i, int64_t) {
        const floats off = load(sum + i) - mean;
        squares[v] += off * off;
      });
      const float scale = 1 / __builtin_sqrtf(total_of(squares) / outputs + norm.epsilon);
      by_four(outputs, [&](int, int64_t i, int64_t left) {
        const floats value = (load(sum + i) - mean) * scale * load(norm.gain + i, left) + load(norm.shift + i, left);
        store(value, y + i, left);
      });
    }
  }
};

}  // namespace
}  // namespace qalib
