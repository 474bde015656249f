// How numbers are held and multiplied.
//
//     Float32     | x0 | * | w0 |                       -> one float32 sum
//     Int8Quads   | x0 x1 x2 x3 | * | w0 w1 w2 w3 |     -> one int32 sum: activations without a sign, as 128 + x
//
// A format has STEP inputs in an `item` of a token in a panel and in a `weight` of a row in a strip; `add` adds their
// products to a vector of LANES sums of the type `number`. Chains of additions are at most CHAIN inputs long. BESIDE are the
// vectors of tokens that `narrow.h` holds in registers.
//
// int8 activations are quantised token by token, with the scale that takes a token's largest value to 127. Sums start from
// `Weight::offsets`: minus 128 times the weights' sum where activations have no sign.

#pragma once

#include "vectors.h"

namespace qalib {
namespace {

template <class V>
struct Float32 : V {
  static constexpr Stored STORED = Stored::single;
  static constexpr int STEP = 1, CHAIN = 64;
  typedef float item, weight, number;
  using vec = typename V::floats;
  INLINE static vec fetch(const weight* w) { return V::load(w); }
  INLINE static vec spread(item x) { return x - vec{}; }  // 0 + x is not x for -0, and would be computed
  INLINE static void add(vec& sum, vec x, vec w) { sum += x * w; }
  // The same, of a vector of tokens and one weight.
  INLINE static vec activations(const item* x) { return fetch(x); }
  INLINE static vec repeat(weight w) { return spread(w); }
  INLINE static void add_tokens(vec& sum, vec x, vec w) { add(sum, x, w); }
  // What the sums of each row begin with.
  INLINE static const number* starts(const Weight& w) { return w.bias; }
};

template <class V>
struct Int8Quads : V {
  static constexpr Stored STORED = Stored::int8;
  static constexpr int STEP = 4, CHAIN = 1 << 20;
  static constexpr bool GATHERS = V::INTERLEAVES;
  typedef uint32_t item __attribute__((aligned(1), may_alias));
  typedef item weight;
  typedef int32_t number __attribute__((may_alias));
  using vec = typename V::wholes;
  INLINE static vec fetch(const weight* w) { return V::template read<vec>(w); }
  INLINE static vec spread(item x) { return vec{} + int32_t(x); }
#ifdef EMULATE_VNNI  // for a test, where no machine has the instruction
  INLINE static void add(vec& sum, vec x, vec w) {
    for (int i = 0; i < V::LANES; i++)
      for (int shift = 0; shift < 32; shift += 8) sum[i] += int32_t(uint8_t(x[i] >> shift)) * int8_t(w[i] >> shift);
  }
  INLINE static void add_tokens(vec& sum, vec x, vec w) { add(sum, x, w); }
#else
  INLINE static void add(vec& sum, vec x, vec w) { V::add_quads(sum, x, w); }
  INLINE static void add_tokens(vec& sum, vec x, vec w) { V::add_token_quads(sum, x, w); }
#endif
  INLINE static vec activations(const item* x) { return fetch(x); }
  INLINE static vec repeat(weight w) { return spread(w); }
  INLINE static const number* starts(const Weight& w) { return w.offsets; }

  typedef uint8_t quantised;
  static constexpr float ZERO = 128;
  INLINE static void quantise(vec value, uint8_t* to) { V::to_bytes(value, to); }
};

}  // namespace
}  // namespace qalib
