// AVX2: vectors of 32 bytes; int8 weights as words.
//
//     Int8Words   | x0 x1 | * | w0 w1 |   -> one int32 sum: 16 bits each, weights stored in 8
//
// Products of 8-bit numbers in 16 bits could not be added in pairs without saturating: 2 * 127 * 127 is almost 2^15, and
// vpmaddubsw would take 7-bit activations only. vpmaddwd adds pairs into 32 bits, multiplies as many numbers a cycle as
// vpmaddubsw and the vpmaddwd that must follow it, and a sum is exact up to 2^31 / 127^2 = 133 144 inputs.

#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace qalib {
namespace {

struct Avx2 : Vectors<Avx2, 32> {
  static constexpr int BESIDE = 3;
  INLINE static wholes widen(halves value) { return __builtin_convertvector(value, wholes); }
  INLINE static floats to_floats(wholes value) { return __builtin_convertvector(value, floats); }
  INLINE static halves lower(wholes value) {  // gcc 12 takes __builtin_convertvector's way through general registers
    const __m256i low = (__m256i)(value & 0xffff);
    return (halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 8));
  }
  INLINE static void to_bytes(wholes value, uint8_t* to) {
    const __m128i words = (__m128i)lower(value & 0xff);
    _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
  }
  INLINE static void add_quads(wholes& sum, wholes x, wholes w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
  }
  INLINE static void add_token_quads(wholes& sum, wholes x, wholes w) { add_quads(sum, x, w); }
};

struct Int8Words : Avx2 {
  static constexpr Stored STORED = Stored::int8;
  static constexpr int STEP = 2, CHAIN = 1 << 20, BESIDE = 2;
  typedef uint32_t item __attribute__((aligned(2), may_alias));
  typedef uint16_t weight __attribute__((aligned(1), may_alias));
  typedef int32_t number __attribute__((may_alias));
  typedef wholes vec;
  INLINE static __m256i fetch(const weight* w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w)); }
  INLINE static __m256i spread(item x) { return _mm256_set1_epi32(x); }
  INLINE static void add(vec& sum, __m256i x, __m256i w) { sum += (vec)_mm256_madd_epi16(x, w); }
  INLINE static __m256i activations(const item* x) { return _mm256_loadu_si256((const __m256i*)x); }
  INLINE static __m256i repeat(weight pair) {
    return _mm256_set1_epi32(uint16_t(int8_t(pair)) | uint32_t(uint16_t(int8_t(pair >> 8))) << 16);
  }
  INLINE static void add_tokens(vec& sum, __m256i x, __m256i w) { add(sum, x, w); }
  INLINE static const number* starts(const Weight& w) { return w.offsets; }

  typedef int16_t quantised;
  static constexpr float ZERO = 0;
  INLINE static void quantise(wholes value, int16_t* to) { _mm_storeu_si128((__m128i*)to, (__m128i)lower(value)); }
};

}  // namespace
}  // namespace qalib
