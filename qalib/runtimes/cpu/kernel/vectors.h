// Vectors of LANES floats, by the compiler's vector extensions: memory, sums over a vector, 2^x, GELU.
//
//     floats   | 0 | 1 | ... | LANES - 1 |   of float32, BYTES in all; `wholes` of int32
//     halves   |0|1|...|LANES - 1|           their upper 16 bits: bf16 in memory
//
// `Self` derives from this. It has the conversions, `widen` and `lower` (to the lowest 16 bits), and replaces what its
// processor has better instructions for.

#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "instruction_set.h"

#ifdef __aarch64__
#define REGISTER(value) "+w"(value)
#else
#define REGISTER(value) "+v"(value)
#endif
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Nothing that is compiled for an instruction set may be visible to the linker, which would take it for any machine's.
namespace qalib {
namespace {

template <class Self, int SIZE>
struct Vectors {
  static constexpr int BYTES = SIZE, LANES = SIZE / 4;
  static constexpr bool INTERLEAVES = false;  // whether there are `separate` and `interleave`
  static constexpr bool GATHERS = false;
  typedef float floats __attribute__((vector_size(SIZE)));
  typedef int32_t wholes __attribute__((vector_size(SIZE)));
  typedef uint16_t halves __attribute__((vector_size(SIZE / 2)));

  // From anywhere in memory, and back.
  template <class V>
  INLINE static V read(const void* from) {
    V value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
  }
  template <class V>
  INLINE static void write(V value, void* to) {
    __builtin_memcpy(to, &value, sizeof value);
  }

  // LANES numbers from memory and back, or the `left` that are left of a row, with 0 for the others; bf16 to the nearest,
  // ties to even.
  INLINE static floats load(const float* from) { return read<floats>(from); }
  INLINE static floats load(const uint16_t* from) {
    return (floats)(Self::widen(read<halves>(from)) << 16);
  }
  INLINE static void store(floats value, float* to) { write(value, to); }
  INLINE static void store(floats value, uint16_t* to) {
    const wholes bits = (wholes)value, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    write(Self::lower(value != value ? wholes{} + 0x7fc0 : rounded), to);
  }
  template <class T>
  INLINE static floats load(const T* from, int64_t left) {
    if (left >= LANES) return load(from);
    T some[LANES] = {};
    for (int64_t i = 0; i < left; i++) some[i] = from[i];
    return load(some);
  }
  template <class T>
  INLINE static void store(floats value, T* to, int64_t left) {
    if (left >= LANES) return Self::store(value, to);
    T some[LANES];
    Self::store(value, some);
    for (int64_t i = 0; i < left; i++) to[i] = some[i];
  }

  // One number of all of a vector, by halves: f(f(...), f(...)).
  template <class F>
  INLINE static float reduce(floats x, const F& f) {
    float all[LANES];
    __builtin_memcpy(all, &x, BYTES);
    UNROLL for (int half = LANES / 2; half > 0; half /= 2)
      UNROLL for (int i = 0; i < half; i++) all[i] = f(all[i], all[i + half]);
    return all[0];
  }
  INLINE static float total(floats x) {
    return reduce(x, [](float a, float b) { return a + b; });
  }
  INLINE static float largest(floats x) {
    return reduce(x, [](float a, float b) { return a > b ? a : b; });
  }

  // 2^x for x <= 0, or next to nothing below 2^-126: the nearest power, times a polynomial (error below 2e-7 of it).
  INLINE static floats power_of_two(floats x) {
    const floats lowest = floats{} - 126.0f;
    x = x < lowest ? lowest : x;  // NaN stays
    const floats rounded = x + 12582912.0f, r = x - (rounded - 12582912.0f);  // 1.5 * 2^23
    return (floats)((wholes)fraction_power(r) + ((wholes)rounded << 23));
  }
  INLINE static floats fraction_power(floats r) {  // 2^r for |r| <= 1/2
    return ((((1.3276472e-3f * r + 9.6755415e-3f) * r + 5.5507133e-2f) * r + 2.4022120e-1f) * r +
            6.9314697e-1f) * r + 1.0f;
  }

  // GELU, the exact one: x Phi(x), with Phi the normal distribution. As x (1 + erf(x / sqrt 2)) / 2, with erf as a quotient
  // of two polynomials fitted on -4 ... 4 (error below 3e-8).
  INLINE static floats gelu(floats x) {
    const floats most = floats{} + 4.0f;
    floats a = x * 0.70710678f;
    a = a > most ? most : a;
    a = a < -most ? -most : a;
    const floats s = a * a;
    const floats p = ((((1.9867246e-06f * s + 2.8456815e-04f) * s + 3.8835329e-03f) * s + 5.3102345e-02f) * s +
                      1.9354973e-01f) * s + 1.12837914f;
    const floats q = ((((3.7419684e-05f * s + 1.1856126e-03f) * s + 1.5207640e-02f) * s + 1.1535191e-01f) * s +
                      5.0486154e-01f) * s + 1.0f;
    return 0.5f * x * (1.0f + a * p / q);
  }
};

}  // namespace
}  // namespace qalib
