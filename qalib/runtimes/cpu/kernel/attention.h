// Attention of one head between the linear layers, through the same multiplication: a head's keys and values are dense
// strips.
//
//     queries: panels   *   keys: strips [size / STEP][STRIP keys]      ->  scores [strip][token][STRIP]
//     softmax(scale * (scores + mask) + bias): panels   *   values: strips [keys / STEP][lanes of size]   ->  out

#pragma once

#include "layer.h"

namespace qalib {
namespace {

template <class P>
struct Attention : P {
  using typename P::item, typename P::floats;
  using P::LANES, P::ROWS, P::WIDE, P::STEP, P::load, P::store, P::depth_of;
  static constexpr bool HALF = P::STORED == Stored::half;
  using share = std::conditional_t<HALF, uint16_t, float>;  // what a weight of attention is stored as

  template <class T>
  INLINE static auto items(const T* x) {
    if constexpr (HALF)
      return (const item*)x;
    else
      return x;
  }

  // Scores of one token, score(strip, v) for each vector of a strip, to e^(scale (score - largest)): put(weights, strip)
  // for each strip. Returns 1 over their sum.
  template <class Score, class Put>
  INLINE static float softmax(const Score& score, int64_t strips, float scale, const Put& put) {
    floats most = floats{} - __builtin_inff(), all = floats{};
    for (int64_t s = 0; s < strips; s++)
      UNROLL for (int v = 0; v < WIDE; v++) {
        const floats x = score(s, v);
        most = x > most ? x : most;
      }
    const float highest = P::largest(most), log_two = scale * 1.44269504f;
    for (int64_t s = 0; s < strips; s++) {
      floats weights[WIDE];
      UNROLL for (int v = 0; v < WIDE; v++) all += weights[v] = P::power_of_two((score(s, v) - highest) * log_two);
      put(weights, s);
    }
    return 1 / P::total(all);
  }

  template <class T>
  static void attend(const Heads& h, int64_t head, const T* qkv, const float* mask, const float* bias, T* out,
                     Workspace& workspace) {
    constexpr int64_t STRIP = WIDE * LANES, ITEMS = STRIP / STEP;
    const int64_t size = h.size, apart = h.heads * size, row = 3 * apart, lanes = size % STRIP ? LANES : STRIP;
    const int64_t keys = (h.length + STRIP - 1) / STRIP * STRIP, strips = std::max(keys / STRIP, size / lanes);
    const T *query = qkv + head * size, *key = query + apart, *value = key + apart;

    float *added = workspace.take<float>(0, keys), *nothing = workspace.take<float>(1, size);
    int32_t *starts = workspace.take<int32_t>(2, strips + 1), *columns = workspace.take<int32_t>(3, strips);
    for (int64_t i = 0; i < keys; i++) added[i] = i >= h.length ? -1e30f : mask ? mask[i] : 0;
    std::fill(nothing, nothing + size, 0.0f);
    for (int64_t i = 0; i <= strips; i++) starts[i] = i;
    std::fill(columns, columns + strips, 0);
    const int64_t distances = 2 * h.length - 1;
    float* by_distance = workspace.take<float>(10, bias ? distances + STRIP : 0);  // `bias` as scores are, unscaled
    for (int64_t i = 0; bias && i < distances + STRIP; i++) by_distance[i] = i < distances ? bias[i] / h.scale : 0;

    item* lefts = workspace.take<item>(4, keys * size / STEP);  // keys, [strip][size / STEP][STRIP]
    std::memset(lefts + (keys - STRIP) * size / STEP, 0, STRIP * size / STEP * sizeof(item));
    for (int64_t k = 0; k < h.length; k += STRIP)
      Packing<P>::pack(items(key + k * row), size / STEP, row / STEP, std::min(STRIP, h.length - k),
                       lefts + k * size / STEP, STRIP);
    item* rights = workspace.take<item>(5, keys * size / STEP);  // values, [strip][keys / STEP][lanes]
    for (int64_t d = 0; d < size; d += lanes)
      for (int64_t k = 0; k < keys; k += STEP) {
        const T* from = value + k * row + d;
        item* to = rights + (d * keys + k * lanes) / STEP;
        if constexpr (HALF)
          for (int64_t i = 0; i < lanes; i++)
            to[i] = (k < h.length ? from[i] : 0) | uint32_t(k + 1 < h.length ? from[i + row] : 0) << 16;
        else
          for (int64_t i = 0; i < lanes; i += LANES) store(k < h.length ? load(from + i) : floats{}, to + i);
      }
    Weight scored{lefts, starts, columns, nullptr, added, nullptr, nullptr, keys / STRIP, STRIP, size, size, keys, false};
    Weight summed{rights, starts, columns, nullptr, nothing, nullptr, nullptr, size / lanes, lanes, keys, keys, size, false};
    const float* later = P::FROM_ZERO ? added : nullptr;
    if (P::FROM_ZERO) scored.bias = summed.bias = nullptr;

    item *panel = workspace.take<item>(6, size / STEP * ROWS), *weights = workspace.take<item>(7, keys / STEP * ROWS);
    float *scores = workspace.take<float>(8, keys * ROWS), *sums = workspace.take<float>(9, ROWS * STRIP), shares[ROWS];
    const int64_t depth = depth_of(size), all = depth_of(STRIP);
    typename P::Tiles tiles;
    Layer<P>::each_panel(h.length, [&](int64_t first, int64_t count) {
      const int64_t across = P::held(count), strip = across * STRIP;
      Packing<P>::pack(items(query + first * row), size / STEP, row / STEP, count, panel, across, depth);
      tiles.shape(depth);
      for (int64_t s = 0; s < scored.strips; s++) P::template of<WIDE>(count)(scored, panel, s, scores + s * strip);
      // Tiles take a token's row as it is; else it stands in for scores that are used up, till it is transposed.
      const auto rows = [&](int64_t s) { return all > 1 ? weights + s * across * ITEMS : (item*)(scores + s * strip); };
      for (int64_t t = 0; t < count; t++) {
        const auto put = [&](const floats* x, int64_t s) {
          UNROLL for (int v = 0; v < WIDE; v++) store(x[v], (share*)(rows(s) + t * ITEMS) + v * LANES);
        };
        const auto score = [&](int64_t s, int v) {
          const floats x = load(scores + t * STRIP + s * strip + v * LANES);
          return later ? x + load(later + (s * WIDE + v) * LANES) : x;
        };
        const float* of_query = by_distance + h.length - 1 - (first + t);
        const auto biased = [&](int64_t s, int v) { return score(s, v) + load(of_query + (s * WIDE + v) * LANES); };
        shares[t] = bias ? softmax(biased, scored.strips, h.scale, put) : softmax(score, scored.strips, h.scale, put);
      }
      for (int64_t s = 0; s < scored.strips && all == 1; s++)
        Packing<P>::pack((const item*)rows(s), ITEMS, ITEMS, count, weights + s * across * ITEMS, across, all);
      tiles.shape(all);
      for (int64_t s = 0; s < summed.strips; s++) {
        (lanes == STRIP ? P::template of<WIDE>(count) : P::template of<1>(count))(summed, weights, s, sums);
        for (int64_t t = 0; t < count; t++)
          for (int64_t i = 0; i < lanes; i += LANES)
            store(load(sums + t * lanes + i) * shares[t], out + (first + t) * apart + head * size + s * lanes + i);
      }
    });
  }
};

}  // namespace
}  // namespace qalib
