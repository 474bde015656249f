// Blocks of fewer rows than a vector has, down to single weights: here a vector holds tokens, not rows. Included by
// `block_sparse_kernel.h`.
//
// A weight is read once for up to ACROSS tokens, whose panel stays in the first caches while all rows pass by; so panels
// come first, then rows. Sums are turned, LANES rows at a time, and go on as those of a strip do.

constexpr int VECTORS = 8, ACROSS = VECTORS * LANES;

#if KIND == WORDS
INLINE __m256i activations(const item* x) { return _mm256_loadu_si256((const __m256i*)x); }
INLINE __m256i repeat(weight pair) {
  return _mm256_set1_epi32(uint16_t(int8_t(pair)) | uint32_t(uint16_t(int8_t(pair >> 8))) << 16);
}
#else
INLINE auto activations(const item* x) { return fetch(x); }
INLINE auto repeat(weight value) { return spread(value); }
#endif

// The sums of one row of a strip for COUNT vectors of tokens, of `chain` blocks at a time.
template <int COUNT>
void multiply_row(const Weight& w, const item* panel, int64_t strip, int64_t row, int64_t chain, number* sums) {
  const vec first = vec{} + starts(w)[strip * w.lanes + row];
  const int64_t lanes = w.lanes, steps = w.width / STEP, end = w.starts[strip + 1];
  const weight* value = (const weight*)w.values + w.starts[strip] * steps * lanes + row;
  loose* total = (loose*)sums;
  UNROLL for (int v = 0; v < COUNT; v++) total[v] = first;
  for (int64_t b = w.starts[strip]; b < end;) {
    const int64_t until = b + chain < end ? b + chain : end;
    vec sum[COUNT] = {};
    for (; b < until; b++) {
      const item* x = panel + uint32_t(w.columns[b]) / STEP * COUNT * LANES;
      for (int64_t k = 0; k < steps; k++, x += COUNT * LANES, value += lanes) {
        const auto same = repeat(*value);
        UNROLL for (int v = 0; v < COUNT; v++) add(sum[v], activations(x + v * LANES), same);
      }
    }
    UNROLL for (int v = 0; v < COUNT; v++) total[v] += sum[v];
  }
}

typedef void (*MultiplyRow)(const Weight&, const item*, int64_t, int64_t, int64_t, number*);
template <int COUNT = VECTORS>
INLINE MultiplyRow row_of(int64_t count) {
  if constexpr (COUNT > 1)
    if (count < COUNT) return row_of<COUNT - 1>(count);
  return multiply_row<COUNT>;
}

template <class T>
void narrow_tile(const Weight& w, const T* x, T* y, int64_t tokens, Workspace& workspace) {
  const int64_t size = w.inputs / STEP, chain = blocks_in_chain(w);
  item *panel = workspace.take<item>(0, ACROSS * size), *rows = workspace.take<item>(1, ACROSS * size + LANES);
  number *sums = workspace.take<number>(2, LANES * ACROSS), *turned = workspace.take<number>(3, LANES * ACROSS);
  float* scales = workspace.take<float>(4, ACROSS);
  for (int64_t first = 0; first < tokens; first += ACROSS) {
    const int64_t count = tokens - first < ACROSS ? tokens - first : ACROSS;
    const int64_t vectors = (count + LANES - 1) / LANES, across = vectors * LANES;
    if (count < across) std::memset(panel, 0, across * size * sizeof(item));
    pack_panel(w, x + first * w.inputs, count, panel, rows, scales, across);
    const MultiplyRow multiply = row_of(vectors);
    for (int64_t output = 0; output < w.outputs; output += LANES) {
      const int64_t some = w.outputs - output < LANES ? w.outputs - output : LANES;
      for (int64_t i = 0; i < some; i++)
        multiply(w, panel, (output + i) / w.lanes, (output + i) % w.lanes, chain, sums + i * across);
      pack((const item*)sums, across, across, LANES, (item*)turned, LANES);
      finish(w, turned, LANES, scales, count, output, some, y + first * w.outputs + output, w.outputs);
    }
  }
}
