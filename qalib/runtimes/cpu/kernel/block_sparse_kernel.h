// The block-sparse linear layer for one instruction set; `instruction_sets.h` includes this once for each.
//
// W is stored in strips of `lanes` rows. Strip s has the kept blocks starts[s] ... starts[s + 1] - 1, each with the
// column where it begins and its values as [width / STEP][lanes][STEP]. A tile of tokens, small enough for the L2 cache,
// is packed once into panels [input / STEP][token][STEP] of up to ROWS tokens; then, strip by strip, ROWS x lanes sums
// stay in registers over the kept blocks: in vectors, or in tiles where there is AMX. For other blocks see
// `narrow_kernel.h`.
//
// For int8 weights each token is quantised when it is packed, with the scale that takes its largest value to 127. Sums
// start from `offsets`: minus 128 times the weights' sum where activations are stored without a sign, as 128 + x / scale.

#define INLINE __attribute__((always_inline)) inline
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

namespace {
namespace PATH {

constexpr int LANES = BYTES / 4;
typedef float floats __attribute__((vector_size(BYTES)));
typedef int32_t wholes __attribute__((vector_size(BYTES)));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2)));

#if KIND == SINGLES
constexpr int STEP = 1, CHAIN = 64;
typedef float item;     // what a token has in a panel
typedef float weight;   // what a row has in a strip
typedef float number;   // a sum
typedef floats vec;     // LANES sums
INLINE floats fetch(const weight* w) {
  floats value;
  __builtin_memcpy(&value, w, BYTES);
  return value;
}
INLINE floats spread(item x) { return x - floats{}; }  // 0 + x is not x for -0, and would be computed
INLINE void add(vec& sum, floats x, floats w) { sum += x * w; }
#elif KIND == PAIRS
constexpr int STEP = 2, CHAIN = 1 << 20;
typedef uint32_t item __attribute__((aligned(2), may_alias));
typedef item weight;
typedef float number;
typedef floats vec;
INLINE __m512bh fetch(const weight* w) { return (__m512bh)_mm512_loadu_si512(w); }
INLINE __m512bh spread(item x) { return (__m512bh)_mm512_set1_epi32(x); }
INLINE void add(vec& sum, __m512bh x, __m512bh w) { sum = (vec)_mm512_dpbf16_ps((__m512)sum, x, w); }
#elif KIND == WORDS
// Products of 8-bit numbers in 16 bits could not be added in pairs without saturating: 2 * 127 * 127 is almost 2^15, and
// vpmaddubsw would take 7-bit activations only. vpmaddwd adds pairs into 32 bits, multiplies as many numbers a cycle as
// vpmaddubsw and the vpmaddwd that must follow it, and a sum is exact up to 2^31 / 127^2 = 133 144 inputs.
constexpr int STEP = 2, CHAIN = 1 << 20;
typedef uint32_t item __attribute__((aligned(2), may_alias));
typedef uint16_t weight __attribute__((aligned(1), may_alias));
typedef int32_t number __attribute__((may_alias));
typedef wholes vec;
INLINE __m256i fetch(const weight* w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w)); }
INLINE __m256i spread(item x) { return _mm256_set1_epi32(x); }
INLINE void add(vec& sum, __m256i x, __m256i w) { sum += (vec)_mm256_madd_epi16(x, w); }
#elif KIND == QUADS
constexpr int STEP = 4, CHAIN = 1 << 20;
typedef uint32_t item __attribute__((aligned(1), may_alias));
typedef item weight;
typedef int32_t number __attribute__((may_alias));
typedef wholes vec;
INLINE wholes fetch(const weight* w) {
  wholes value;
  __builtin_memcpy(&value, w, BYTES);
  return value;
}
INLINE wholes spread(item x) { return wholes{} + int32_t(x); }
INLINE void add(vec& sum, wholes x, wholes w) {  // the intrinsics make gcc 12 spill the sums
#if defined(EMULATE_VNNI)  // for a test, where no machine has the instruction
  for (int i = 0; i < LANES; i++)
    for (int shift = 0; shift < 32; shift += 8) sum[i] += int32_t(uint8_t(x[i] >> shift)) * int8_t(w[i] >> shift);
#elif BYTES == 64
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#else
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
#endif
}
#endif
typedef vec loose __attribute__((aligned(4), may_alias));  // anywhere in memory
typedef floats loose_floats __attribute__((aligned(4), may_alias));

// What the sums of each row begin with.
INLINE const number* starts(const Weight& w) {
#if KIND == WORDS || KIND == QUADS
  return w.offsets;
#else
  return w.bias;
#endif
}
INLINE int64_t blocks_in_chain(const Weight& w) { return w.width < CHAIN ? CHAIN / w.width : 1; }

#ifdef TILES
#include "amx_kernel.h"
#else
#include "vector_kernel.h"
#endif

// LANES numbers from memory and back, or the `left` that are left of a row, with 0 for the others; bf16 to the nearest,
// ties to even.
INLINE floats load(const float* from) { return *(const loose_floats*)from; }
INLINE floats load(const uint16_t* from) {
  halves value;
  __builtin_memcpy(&value, from, sizeof value);
  return (floats)(__builtin_convertvector(value, wholes) << 16);
}
INLINE void store(floats value, float* to) { *(loose_floats*)to = value; }
INLINE halves lower(wholes value) {  // 16 bits of each
#if BYTES == 32  // gcc 12 takes __builtin_convertvector's way through general registers
  const __m256i low = (__m256i)(value & 0xffff);
  return (halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 8));
#else
  return __builtin_convertvector(value, halves);
#endif
}
INLINE void store(floats value, uint16_t* to) {
#if BYTES == 64
  if (KIND == PAIRS || narrows) {  // in one instruction, that takes numbers below the normal ones for 0
    __m256i found;
    asm("vcvtneps2bf16 %1, %0" : "=v"(found) : "v"(value));
    return _mm256_storeu_si256((__m256i*)to, found);
  }
#endif
  const wholes bits = (wholes)value, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const halves found = lower(value != value ? wholes{} + 0x7fc0 : rounded);
  __builtin_memcpy(to, &found, sizeof found);
}
template <class T>
INLINE floats load(const T* from, int64_t left) {
  if (left >= LANES) return load(from);
  T some[LANES] = {};
  for (int64_t i = 0; i < left; i++) some[i] = from[i];
  return load(some);
}
template <class T>
INLINE void store(floats value, T* to, int64_t left) {
  if (left >= LANES) return store(value, to);
  T some[LANES];
  store(value, some);
  for (int64_t i = 0; i < left; i++) to[i] = some[i];
}

#include "gelu_kernel.h"

// One number of all of a vector, by halves: f(f(...), f(...)).
template <class F>
INLINE float reduce(floats x, const F& f) {
  float all[LANES];
  __builtin_memcpy(all, &x, BYTES);
  UNROLL for (int half = LANES / 2; half > 0; half /= 2)
    UNROLL for (int i = 0; i < half; i++) all[i] = f(all[i], all[i + half]);
  return all[0];
}
INLINE float total(floats x) {
  return reduce(x, [](float a, float b) { return a + b; });
}
INLINE float largest(floats x) {
  return reduce(x, [](float a, float b) { return a > b ? a : b; });
}

// From sums, those of a token `stride` apart, to y, where tokens are `apart`: `count` outputs from `first` on, all of
// LANES each if FULL.
template <bool GELU, bool FULL, class T>
INLINE void finish_as(const Weight& w, const number* sums, int64_t stride, const float* scales, int64_t tokens,
                      int64_t first, int64_t count, T* y, int64_t apart) {
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t left = FULL ? LANES : count - i;
#if KIND == WORDS || KIND == QUADS
    const floats scale = load(w.scales + first + i, left), bias = load(w.bias + first + i, left);
#endif
    for (int64_t t = 0; t < tokens; t++) {
      const vec sum = *(const loose*)(sums + t * stride + i);
#if KIND == WORDS || KIND == QUADS
      const floats value = __builtin_convertvector(sum, floats) * (scales[t] * scale) + bias;
#else
      const floats value = sum;
#endif
      store(GELU ? gelu(value) : value, y + t * apart + i, left);
    }
  }
}
template <class T>
void finish(const Weight& w, const number* sums, int64_t stride, const float* scales, int64_t tokens, int64_t first,
            int64_t count, T* y, int64_t apart) {
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

// f(v, i, left) for the numbers i ... i + LANES - 1 of a row, of which `left` are there, with v = 0 ... 3 in turn: of four
// sums none waits for the last.
template <class F>
INLINE void by_four(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    UNROLL for (int v = 0; v < 4; v++) f(v, i + v * LANES, LANES);
  for (; i < count; i += LANES) f(0, i, count - i);
}
INLINE float total(const floats (&sums)[4]) { return total((sums[0] + sums[1]) + (sums[2] + sums[3])); }

// LayerNorm(y + residual) in place, a token at a time; `sum` is room for one.
template <class T>
void normalise(const Norm& norm, int64_t outputs, int64_t tokens, const T* residual, T* y, float* sum) {
  for (int64_t t = 0; t < tokens; t++, y += outputs, residual += outputs) {
    floats all[4] = {}, squares[4] = {};
    by_four(outputs, [&](int v, int64_t i, int64_t left) {
      const floats value = load(y + i, left) + load(residual + i, left);
      store(value, sum + i, left);
      all[v] += value;
    });
    const float mean = total(all) / outputs;
    std::fill(sum + outputs, sum + outputs + LANES, mean);  // what stands behind the row counts as 0
    by_four(outputs, [&](int v, int64_t i, int64_t) {
      const floats off = load(sum + i) - mean;
      squares[v] += off * off;
    });
    const float scale = 1 / __builtin_sqrtf(total(squares) / outputs + norm.epsilon);
    by_four(outputs, [&](int, int64_t i, int64_t left) {
      const floats value = (load(sum + i) - mean) * scale * load(norm.gain + i, left) + load(norm.shift + i, left);
      store(value, y + i, left);
    });
  }
}

#include "packing_kernel.h"
#if defined(TILES) && KIND == PAIRS
constexpr int ACROSS = 0, CHUNK = 0;  // vectors of float32 are faster than those of bf16 where there are tiles
#else
#include "narrow_kernel.h"
#endif

#include "tile_kernel.h"

#if KIND == SINGLES || KIND == PAIRS
#include "attention_kernel.h"
#endif

#define TEXT(name) #name
#define NAME(name) TEXT(name)
#if KIND == SINGLES
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, WHOLE, ACROSS, CHUNK, STEP, 4 / STEP, Stored::single, peak,
                    tile<float>, tile<uint16_t>, attend<float>, attend<uint16_t>};
#elif KIND == PAIRS
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, WHOLE, ACROSS, CHUNK, STEP, 4 / STEP, Stored::half, peak,
                    nullptr, tile<uint16_t>, nullptr, attend<uint16_t>};
#else
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, WHOLE, ACROSS, CHUNK, STEP, 4 / STEP, Stored::int8, peak,
                    tile<float>, tile<uint16_t>, nullptr, nullptr};
#endif
#undef TEXT
#undef NAME

}  // namespace PATH
}  // namespace

#undef INLINE
#undef REGISTER
#undef UNROLL
#undef PATH
