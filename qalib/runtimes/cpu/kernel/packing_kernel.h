// Tokens to panels: transposed, and for int8 weights quantised on the way. Included by `block_sparse_kernel.h`.

typedef item four __attribute__((vector_size(16)));
INLINE four take(const item* from) {
  four value;
  __builtin_memcpy(&value, from, 16);
  return value;
}
INLINE void give(four value, item* to) { __builtin_memcpy(to, &value, 16); }

// Tokens that are `stride` items apart, of each `size` items, to [size][across].
void pack(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across) {
  for (int64_t k = 0; k < size; k += 4) {
    const int64_t wide = size - k < 4 ? size - k : 4;
    int64_t t = 0;
    for (; wide == 4 && t + 4 <= tokens; t += 4) {
      const item* from = x + t * stride + k;
      item* to = panel + k * across + t;
      const four a = take(from), b = take(from + stride), c = take(from + 2 * stride), d = take(from + 3 * stride);
      const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      give(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), to);
      give(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), to + across);
      give(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), to + 2 * across);
      give(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), to + 3 * across);
    }
    for (; t < tokens; t++)
      for (int64_t i = 0; i < wide; i++) panel[(k + i) * across + t] = x[t * stride + k + i];
  }
}

#if KIND == SINGLES
void pack(const uint16_t* x, int64_t size, int64_t stride, int64_t tokens, float* panel, int64_t across) {
  constexpr int64_t PART = 64, SOME = WIDE * LANES;
  float rows[SOME][PART];
  for (int64_t first = 0; first < tokens; first += SOME, x += SOME * stride)
    for (int64_t k = 0; k < size; k += PART) {
      const int64_t part = size - k < PART ? size - k : PART, some = tokens - first < SOME ? tokens - first : SOME;
      for (int64_t t = 0; t < some; t++)
        for (int64_t i = 0; i < part; i += LANES) store(load(x + t * stride + k + i, part - i), rows[t] + i);
      pack(rows[0], part, PART, some, panel + k * across + first, across);
    }
}
#elif KIND == WORDS || KIND == QUADS
#if KIND == WORDS
typedef int16_t step;
constexpr float ZERO = 0;
#else
typedef uint8_t step;
constexpr float ZERO = 128;
#endif

// The lowest bits of LANES whole numbers; by hand for the reason that `lower` has.
INLINE void narrow_to(wholes value, step* to) {
#if KIND == WORDS
  _mm_storeu_si128((__m128i*)to, (__m128i)lower(value));
#elif BYTES == 32
  const __m128i words = (__m128i)lower(value & 0xff);
  _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
#else
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)value));
#endif
}

// One token to ZERO + x / scale in steps of its scale, which it returns; NaN if there is one in it.
template <class T>
INLINE float quantise(const T* x, int64_t inputs, step* to) {
  wholes most = {};  // bits of a size are in the order of sizes, those of NaN above all
  for (int64_t k = 0; k < inputs; k += LANES) {
    const wholes size = (wholes)load(x + k, inputs - k) & 0x7fffffff;
    most = size > most ? size : most;
  }
  int32_t all[LANES];
  __builtin_memcpy(all, &most, BYTES);
  const int32_t bits = *std::max_element(all, all + LANES);
  float highest;
  __builtin_memcpy(&highest, &bits, 4);
  const float inverse = highest > 0 ? 127 / highest : 0;
  for (int64_t k = 0; k < inputs; k += LANES) {
    // added to 1.5 * 2^23, a number is rounded to a whole one in the lowest bits
    const floats value = load(x + k, inputs - k) * inverse + (12582912.0f + ZERO);
    narrow_to((wholes)value, to + k);
  }
  return highest / 127;
}
#endif

// Rows of items to a panel that holds `across` of them; to that of tiles if there is a `depth`.
#ifdef TILES
INLINE void pack(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across,
                 int64_t depth) {
  if (depth)
    pack_rows(x, size, stride, tokens, panel, depth);
  else
    pack(x, size, stride, tokens, panel, across);
}
#else
template <class T>
INLINE void pack(const T* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across, int64_t) {
  pack(x, size, stride, tokens, panel, across);
}
#endif

// A panel of tokens of x; `rows` is room for what is between, `scales` for int8.
template <class T>
INLINE void pack_panel(const Weight& w, const T* x, int64_t tokens, item* panel, item* rows, float* scales,
                       int64_t across, int64_t depth = 0) {
  const int64_t size = w.inputs / STEP;
#if KIND == WORDS || KIND == QUADS
  for (int64_t t = 0; t < tokens; t++) scales[t] = quantise(x + t * w.inputs, w.inputs, (step*)(rows + t * size));
  pack(rows, size, size, tokens, panel, across, depth);
#elif KIND == PAIRS
  pack((const item*)x, size, size, tokens, panel, across, depth);
#else
  pack(x, size, size, tokens, panel, across, depth);
#endif
}
