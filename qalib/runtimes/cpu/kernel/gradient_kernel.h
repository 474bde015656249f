// The gradient of a block-sparse weight for one instruction set; `gradient.cpp` includes this once for each.
//
// A block's gradient is the sum over tokens of dy (its rows) times x (its columns). Both are packed into panels, one for
// each block row and block column, [token / STEP][row or column][STEP]. Then ROWS x WIDE vectors of a block's sums stay in
// registers over CHUNK tokens, whose parts of two panels stay in the L1 cache.

#define INLINE __attribute__((always_inline)) inline
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

namespace {
namespace PATH {

constexpr int LANES = BYTES / 4, WIDE = 2;
typedef float floats __attribute__((vector_size(BYTES)));
typedef floats loose __attribute__((aligned(4), may_alias));  // anywhere in memory

#if KIND == SINGLES
constexpr int STEP = 1;
typedef float item;  // STEP tokens of a row or column
INLINE floats fetch(const item* x) { return *(const loose*)x; }
INLINE floats spread(item y) { return y - floats{}; }  // 0 + y is not y for -0, and would be computed
INLINE void add(floats& sum, floats y, floats x) { sum += y * x; }
#else
constexpr int STEP = 2;
typedef uint32_t item __attribute__((may_alias));
INLINE __m512bh fetch(const item* x) { return (__m512bh)_mm512_loadu_si512(x); }
INLINE __m512bh spread(item y) { return (__m512bh)_mm512_set1_epi32(y); }
INLINE void add(floats& sum, __m512bh y, __m512bh x) { sum = (floats)_mm512_dpbf16_ps((__m512)sum, y, x); }
#endif
constexpr int64_t CHUNK = 64;  // steps

// A panel of `width` columns of x, rows of which are `stride` apart.
template <class T>
void pack(const T* x, int64_t stride, int64_t tokens, int64_t width, void* panel) {
  item* to = (item*)panel;
  for (int64_t t = 0; t < tokens; t += STEP, x += STEP * stride, to += width) {
#if KIND == SINGLES
    for (int64_t i = 0; i < width; i++) to[i] = widen(x[i]);
#else
    const T* next = x + stride;
    if (t + 1 < tokens)
      for (int64_t i = 0; i < width; i++) to[i] = x[i] | uint32_t(next[i]) << 16;
    else
      for (int64_t i = 0; i < width; i++) to[i] = x[i];
#endif
  }
}

// ROWS outputs by WIDTH vectors of inputs, added to `out`.
template <int ROWS, int WIDTH>
void multiply(const item* y, const item* x, int64_t steps, int64_t height, int64_t width, float* out) {
  floats sum[ROWS][WIDTH];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < WIDTH; v++) sum[r][v] = floats{};
  for (int64_t k = 0; k < steps; k++, y += height, x += width) {
    decltype(fetch(x)) inputs[WIDTH];
    UNROLL for (int v = 0; v < WIDTH; v++) inputs[v] = fetch(x + v * LANES);
    UNROLL for (int r = 0; r < ROWS; r++) {
      const auto output = spread(y[r]);
      UNROLL for (int v = 0; v < WIDTH; v++) add(sum[r][v], output, inputs[v]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < WIDTH; v++) *(loose*)(out + r * width + v * LANES) += sum[r][v];
}

typedef void (*Multiply)(const item*, const item*, int64_t, int64_t, int64_t, float*);
template <int WIDTH, int ROWS = MOST_ROWS>
INLINE Multiply of(int64_t rows) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return of<WIDTH, ROWS - 1>(rows);
  return multiply<ROWS, WIDTH>;
}

// The gradient of a block of height x width over `tokens` tokens of its two panels, added to `out`.
void block(const void* y, const void* x, int64_t tokens, int64_t height, int64_t width, float* out) {
  const int64_t steps = (tokens + STEP - 1) / STEP, parts = (height + MOST_ROWS - 1) / MOST_ROWS;
  for (int64_t k = 0; k < steps; k += CHUNK) {
    const item *outputs = (const item*)y + k * height, *inputs = (const item*)x + k * width;
    const int64_t some = steps - k < CHUNK ? steps - k : CHUNK;
    for (int64_t part = 0; part < parts; part++) {  // as even as can be
      const int64_t row = height * part / parts, rows = height * (part + 1) / parts - row;
      int64_t column = 0;
      for (; column + WIDE * LANES <= width; column += WIDE * LANES)
        of<WIDE>(rows)(outputs + row, inputs + column, some, height, width, out + row * width + column);
      if (column < width)
        of<1>(rows)(outputs + row, inputs + column, some, height, width, out + row * width + column);
    }
  }
}

#define TEXT(name) #name
#define NAME(name) TEXT(name)
#if KIND == SINGLES
constexpr Path path{NAME(PATH), LANES, STEP, pack<float>, pack<uint16_t>, block};
#else
constexpr Path path{NAME(PATH), LANES, STEP, nullptr, pack<uint16_t>, block};
#endif
#undef TEXT
#undef NAME

}  // namespace PATH
}  // namespace

#undef INLINE
#undef UNROLL
#undef PATH
#undef KIND
#undef MOST_ROWS
