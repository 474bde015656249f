// Blocks of fewer rows than a vector has, down to single weights: here a vector holds tokens, not rows.
//
//     panel [input / STEP][token][STEP]        sums [row][token]
//
//     by rows:      one weight, spread   *   | tokens of its input |           += sums of its row
//     by columns:   ITEMS weights        *   ITEMS x | tokens |, in registers  += sums of one row after another
//
// By rows, a weight is read once for up to ACROSS tokens. Of their panel one part after another, which the first cache
// holds, meets the weights of CHUNK rows, whose sums wait in the second. By columns, where blocks are ITEMS deep, a row's
// sums come and go for each block, but that is a load and a store for ITEMS products, where by rows each has a load.
//
// Sums are transposed, LANES rows at a time, and go on as those of a strip do.

#pragma once

#include "epilogue.h"
#include "packing.h"

namespace qalib {
namespace {

template <class P>
struct Narrow : P {
  using typename P::item, typename P::weight, typename P::number, typename P::vec;
  using P::LANES, P::STEP, P::BESIDE, P::activations, P::repeat, P::add_tokens;

  static constexpr int VECTORS = 8, ACROSS = VECTORS * LANES;
  static constexpr int64_t PART = 48 * 1024 / (ACROSS * sizeof(item)), CHUNK = 192, LEAST = 16;

  template <int COUNT>
  INLINE static void add_to_memory(number* total, const vec (&sum)[COUNT]) {
    UNROLL for (int v = 0; v < COUNT; v++)
      P::write(P::template read<vec>(total + v * LANES) + sum[v], total + v * LANES);
  }

  // Adds to the sums of `count` rows from `first` on, COUNT vectors of tokens each, what their blocks give that begin
  // before input `limit`, of `chain` blocks at a time; next[i] is the next block of row i. A block has STEPS, or any number
  // if 0.
  template <int COUNT, int STEPS>
  static void multiply_rows(const Weight& w, const item* panel, int64_t first, int64_t count, int32_t* next,
                            int64_t limit, int64_t chain, number* sums) {
    const int64_t lanes = w.lanes, steps = STEPS ? STEPS : w.width / STEP;
    const int32_t* columns = w.columns;
    int64_t strip = first / lanes, row = first % lanes;
    for (int64_t i = 0; i < count; i++) {
      const int64_t end = w.starts[strip + 1];
      int64_t b = next[i];
      const weight* value = (const weight*)w.values + b * steps * lanes + row;
      while (b < end && columns[b] < limit) {
        const int64_t until = b + chain < end ? b + chain : end;
        vec sum[COUNT] = {};
        do {
          const item* x = panel + uint32_t(columns[b]) / STEP * COUNT * LANES;
          for (int64_t k = 0; k < steps; k++, x += COUNT * LANES, value += lanes) {
            const auto same = repeat(*value);
            UNROLL for (int v = 0; v < COUNT; v++) add_tokens(sum[v], activations(x + v * LANES), same);
          }
        } while (++b < until && columns[b] < limit);
        add_to_memory(sums + i * COUNT * LANES, sum);
      }
      next[i] = int32_t(b);
      if (++row == lanes) row = 0, strip++;
    }
  }

  typedef void (*MultiplyRows)(const Weight&, const item*, int64_t, int64_t, int32_t*, int64_t, int64_t, number*);
  template <int STEPS, int COUNT = VECTORS>
  INLINE static MultiplyRows rows_of(int64_t count) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return rows_of<STEPS, COUNT - 1>(count);
    return multiply_rows<COUNT, STEPS>;
  }

  // Adds to the sums of a strip what its blocks give, COUNT vectors of tokens each; those of a column stand together.
  template <int COUNT>
  static void multiply_columns(const Weight& w, const item* panel, int64_t strip, number* sums) {
    const int64_t end = w.starts[strip + 1];
    int64_t b = w.starts[strip];
    const weight* value = (const weight*)w.values + b * ITEMS;
    while (b < end) {
      const int32_t column = w.columns[b];
      const item* x = panel + uint32_t(column) / STEP * COUNT * LANES;
      decltype(activations(x)) held[ITEMS][COUNT];
      UNROLL for (int k = 0; k < ITEMS; k++)
        UNROLL for (int v = 0; v < COUNT; v++) {
          held[k][v] = activations(x + (k * COUNT + v) * LANES);
          asm volatile("" : REGISTER(held[k][v]));  // or they are loaded for each row
        }
      do {
        number* total = sums + w.rows[b] * COUNT * LANES;
        vec sum[COUNT];
        UNROLL for (int v = 0; v < COUNT; v++) sum[v] = P::template read<vec>(total + v * LANES);
        UNROLL for (int k = 0; k < ITEMS; k++) {
          const auto same = repeat(*value++);
          UNROLL for (int v = 0; v < COUNT; v++) add_tokens(sum[v], held[k][v], same);
        }
        UNROLL for (int v = 0; v < COUNT; v++) P::write(sum[v], total + v * LANES);
      } while (++b < end && w.columns[b] == column);
    }
  }

  typedef void (*MultiplyColumns)(const Weight&, const item*, int64_t, number*);
  template <int COUNT = BESIDE>
  INLINE static MultiplyColumns columns_of(int64_t count) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return columns_of<COUNT - 1>(count);
    return multiply_columns<COUNT>;
  }

  template <class T>
  static void multiply(const Weight& w, const T* x, T* y, int64_t tokens, Workspace& workspace) {
    const int64_t size = w.inputs / STEP, most = w.rows ? BESIDE * LANES : ACROSS;
    item *panels = workspace.take<item>(0, ACROSS * size), *rows = workspace.take<item>(1, most * size + LANES);
    number *sums = workspace.take<number>(2, CHUNK * most), *turned = workspace.take<number>(3, LANES * most);
    float* scales = workspace.take<float>(4, ACROSS);
    int32_t next[CHUNK];
    // Of a part a row has LEAST items or more: it costs a row's sums the way there and back.
    const int64_t kept = w.starts[w.strips] * w.width / STEP;
    const int64_t part = std::max(PART, LEAST * size * w.strips / (kept + 1));
    const int64_t chunk = w.rows || part < size ? CHUNK : LANES;
    for (; tokens > 0; tokens -= ACROSS, x += ACROSS * w.inputs, y += ACROSS * w.outputs) {
      const auto each_panel = [&](const auto& f) {  // f(first token, count, vectors)
        for (int64_t t = 0; t < tokens && t < ACROSS; t += most) {
          const int64_t count = std::min(tokens - t, most);
          f(t, count, (count + LANES - 1) / LANES);
        }
      };
      each_panel([&](int64_t t, int64_t count, int64_t vectors) {
        if (count % LANES) std::memset(panels + t * size, 0, vectors * LANES * size * sizeof(item));
        Packing<P>::pack_panel(w, x + t * w.inputs, count, panels + t * size, rows, scales + t, vectors * LANES);
      });
      for (int64_t begin = 0; begin < w.outputs; begin += chunk)
        each_panel([&](int64_t t, int64_t count, int64_t vectors) {
          const int64_t held = std::min(w.outputs - begin, chunk), across = vectors * LANES;
          for (int64_t i = 0; i < held; i++)
            std::fill(sums + i * across, sums + (i + 1) * across, P::starts(w)[begin + i]);
          if (w.rows)
            columns_of(vectors)(w, panels + t * size, begin / CHUNK, sums);
          else {
            const MultiplyRows multiply = w.width == 4 ? rows_of<4 / STEP % ITEMS>(vectors) : rows_of<0>(vectors);
            for (int64_t i = 0; i < held; i++) next[i] = w.starts[uint32_t(begin + i) / uint32_t(w.lanes)];
            for (int64_t at = 0; at < size; at += part)
              multiply(w, panels, begin, held, next, (at + part) * STEP, P::blocks_in_chain(w), sums);
          }
          for (int64_t i = 0; i < held; i += LANES) {
            const int64_t some = std::min<int64_t>(held - i, LANES), output = begin + i;
            Packing<P>::transpose((const item*)(sums + i * across), across, across, LANES, (item*)turned, LANES);
            Epilogue<P>::finish(w, turned, LANES, scales + t, count, output, some, y + t * w.outputs + output,
                                w.outputs);
          }
        });
    }
  }
};

}  // namespace
}  // namespace qalib
