// The multiplication of `block_sparse_kernel.h` by vectors of LANES sums, one token's. Included by it.

constexpr int64_t WHOLE = 1;       // what parts of the tokens are a multiple of
constexpr bool FROM_ZERO = false;  // sums begin with what `starts` gives

struct Tiles {  // nothing to be set
  void shape(int64_t) {}
};
INLINE int64_t depth_of(int64_t) { return 1; }

// The room for tokens that a panel of some has, and the first token of a panel: they are as even as can be.
INLINE int64_t held(int64_t tokens) { return tokens; }
INLINE int64_t first_of(int64_t panel, int64_t panels, int64_t tokens) { return tokens * panel / panels; }

// The sums of one panel and one strip. Registers hold those of at most CHAIN inputs, as long chains round more.
template <int TOKENS, int WIDTH>
void multiply(const Weight& w, const item* panel, int64_t strip, number* sums) {
  const number* start = starts(w) + strip * w.lanes;
  vec sum[TOKENS][WIDTH];
  loose* total = (loose*)sums;
  UNROLL for (int t = 0; t < TOKENS; t++)
    UNROLL for (int v = 0; v < WIDTH; v++) total[t * WIDTH + v] = ((const loose*)start)[v];
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
      UNROLL for (int v = 0; v < WIDTH; v++) total[t * WIDTH + v] += sum[t][v];
  }
}

// The inner loop of `multiply` with all it needs in registers: what the processor does at most. Gives the multiply-adds.
int64_t peak(int64_t rounds) {
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

typedef void (*Multiply)(const Weight&, const item*, int64_t, number*);
template <int WIDTH, int TOKENS = ROWS>
INLINE Multiply of(int64_t tokens) {
  if constexpr (TOKENS > 1)
    if (tokens < TOKENS) return of<WIDTH, TOKENS - 1>(tokens);
  return multiply<TOKENS, WIDTH>;
}
