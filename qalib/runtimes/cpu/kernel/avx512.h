// AVX-512: vectors of 64 bytes; bf16 weights and activations in pairs.
//
//     BFloat16Pairs   | x0 x1 | * | w0 w1 |   -> one float32 sum

#pragma once

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of gcc's own header, where it is left so on purpose
#endif
#include <immintrin.h>

#include "numbers.h"

namespace qalib {
namespace {

struct Avx512 : Vectors<Avx512, 64> {
  static constexpr int BESIDE = 4;
  static constexpr bool INTERLEAVES = true;
#ifdef __AVX512BF16__  // compiled for processors that all have it
  static constexpr bool NARROWS = true;
#else
  static constexpr bool NARROWS = false;
#endif
  INLINE static wholes widen(halves value) { return __builtin_convertvector(value, wholes); }
  INLINE static floats to_floats(wholes value) { return __builtin_convertvector(value, floats); }
  INLINE static halves lower(wholes value) { return __builtin_convertvector(value, halves); }
  using Vectors::store;
  INLINE static void store(floats value, uint16_t* to) {
    if (!NARROWS && !narrows) return Vectors::store(value, to);
    __m256i halves;  // numbers below the normal ones count as 0
    asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(value));
    _mm256_storeu_si256((__m256i*)to, halves);
  }
  INLINE static floats power_of_two(floats x) {
    const floats r = (floats)_mm512_reduce_ps((__m512)x, 8);  // what is above or below the nearest whole number
    return (floats)_mm512_scalef_ps((__m512)fraction_power(r), (__m512)(x - r));
  }
  // x Phi(x) is max(x, 0) - |x| Phi(-|x|). What is subtracted is a bump that ends near BUMP_TOP: here by its polynomials
  // (error below 1e-6), whose terms are chosen by permutations of two registers: half the instructions of a quotient.
  INLINE static floats gelu(floats x) {
    const __m512 size = _mm512_abs_ps((__m512)x), t = _mm512_min_ps(_mm512_set1_ps(BUMP_TOP), size);  // NaN stays
    const __m512i segment = (__m512i)((floats)t * BUMP_PACE + 8388608.0f);  // 2^23: a whole number in the lowest bits
    floats terms[4];
    UNROLL for (int power = 0; power < 4; power++) {
      const float* of = bump.terms[power];
      terms[power] = (floats)_mm512_permutex2var_ps(_mm512_load_ps(of), segment, _mm512_load_ps(of + 16));
    }
    const floats sum = ((terms[3] * (floats)t + terms[2]) * (floats)t + terms[1]) * (floats)t + terms[0];
    return (floats)_mm512_max_ps(_mm512_setzero_ps(), (__m512)x) - sum;
  }
  INLINE static void to_bytes(wholes value, uint8_t* to) {
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)value));
  }
  INLINE static void add_quads(wholes& sum, wholes x, wholes w) {  // the intrinsics make gcc 12 spill the sums
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
  INLINE static void add_token_quads(wholes& sum, wholes x, wholes w) {  // and the asm makes it copy these
    sum = (wholes)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
  }
  // Four vectors of tokens with four bytes each to four of one byte of all, in place, and any four of those back to tokens.
  INLINE static void separate(void* items) {
    const __m512i by_byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i* to = (__m512i*)items;
    __m512i x[4];
    UNROLL for (int v = 0; v < 4; v++) x[v] = _mm512_shuffle_epi8(_mm512_loadu_si512(to + v), by_byte);
    const __m512i low = _mm512_unpacklo_epi32(x[0], x[1]), high = _mm512_unpackhi_epi32(x[0], x[1]);
    const __m512i other = _mm512_unpacklo_epi32(x[2], x[3]), others = _mm512_unpackhi_epi32(x[2], x[3]);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(low, other));
    _mm512_storeu_si512(to + 1, _mm512_unpackhi_epi64(low, other));
    _mm512_storeu_si512(to + 2, _mm512_unpacklo_epi64(high, others));
    _mm512_storeu_si512(to + 3, _mm512_unpackhi_epi64(high, others));
  }
  INLINE static void interleave(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, wholes* to) {
    const __m512i i = _mm512_loadu_si512(a), j = _mm512_loadu_si512(b);
    const __m512i k = _mm512_loadu_si512(c), l = _mm512_loadu_si512(d);
    const __m512i low = _mm512_unpacklo_epi8(i, j), high = _mm512_unpackhi_epi8(i, j);
    const __m512i other = _mm512_unpacklo_epi8(k, l), others = _mm512_unpackhi_epi8(k, l);
    to[0] = (wholes)_mm512_unpacklo_epi16(low, other), to[1] = (wholes)_mm512_unpackhi_epi16(low, other);
    to[2] = (wholes)_mm512_unpacklo_epi16(high, others), to[3] = (wholes)_mm512_unpackhi_epi16(high, others);
  }
};

struct BFloat16Pairs : Avx512 {
  static constexpr Stored STORED = Stored::half;
  static constexpr int STEP = 2, CHAIN = 1 << 20;
  typedef uint32_t item __attribute__((aligned(2), may_alias));
  typedef item weight;
  typedef float number;
  typedef floats vec;
  INLINE static __m512bh fetch(const weight* w) { return (__m512bh)_mm512_loadu_si512(w); }
  INLINE static __m512bh spread(item x) { return (__m512bh)_mm512_set1_epi32(x); }
  INLINE static void add(vec& sum, __m512bh x, __m512bh w) { sum = (vec)_mm512_dpbf16_ps((__m512)sum, x, w); }
  INLINE static __m512bh activations(const item* x) { return fetch(x); }
  INLINE static __m512bh repeat(weight w) { return spread(w); }
  INLINE static void add_tokens(vec& sum, __m512bh x, __m512bh w) { add(sum, x, w); }
  INLINE static const number* starts(const Weight& w) { return w.bias; }
};

}  // namespace
}  // namespace qalib
