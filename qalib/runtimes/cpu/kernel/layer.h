// A tile of tokens, small enough for the L2 cache, through a layer or two: packed into panels of up to ROWS tokens,
// multiplied strip by strip, finished, normalised.
//
//     x [token][input] -> panels -> sums of a strip -> y [token][outputs]             one layer
//                                                   -> panels -> sums of a strip -> y two, but for int8, which needs a
//                                                                                     token's largest first

#pragma once

#include "gathered.h"
#include "narrow.h"

namespace qalib {
namespace {

template <class P>
struct Layer : P {
  using typename P::item, typename P::number, typename P::Tiles;
  using P::LANES, P::ROWS, P::WIDE, P::STEP, P::depth_of, P::first_of, P::held;

  INLINE static bool is_wide(const Weight& w) { return w.lanes == LANES || w.lanes == WIDE * LANES; }

  // f(panel's first token, count) for each panel of a tile.
  template <class F>
  INLINE static void each_panel(int64_t tokens, const F& f) {
    const int64_t panels = (tokens + ROWS - 1) / ROWS;
    for (int64_t p = 0; p < panels; p++) {
      const int64_t first = first_of(p, panels, tokens);
      f(first, first_of(p + 1, panels, tokens) - first);
    }
  }

  // The panels of a tile of tokens, with their scales.
  template <class T>
  static void pack_tile(const Weight& w, const T* x, int64_t tokens, item* packed, float* scales,
                        Workspace& workspace) {
    const int64_t size = w.inputs / STEP, depth = depth_of(w.width);
    item* rows = workspace.take<item>(1, ROWS * size + LANES);
    each_panel(tokens, [&](int64_t first, int64_t count) {
      Packing<P>::pack_panel(w, x + first * w.inputs, count, packed + first * size, rows, scales + first, held(count),
                             depth);
    });
  }

  // The sums of a tile: put(sums, strip, first, count) for each strip and panel, which begins with token `first`; before
  // they are computed, fetch(strip, first, count).
  template <class Fetch, class Put>
  static void multiply_tile(const Weight& w, const item* packed, int64_t tokens, Workspace& workspace,
                            const Fetch& fetch, const Put& put) {
    const int64_t size = w.inputs / STEP;
    number* sums = workspace.take<number>(2, ROWS * w.lanes + LANES);
    Tiles tiles;
    tiles.shape(depth_of(w.width));
    for (int64_t s = 0; s < w.strips; s++)
      each_panel(tokens, [&](int64_t first, int64_t count) {
        fetch(s, first, count);
        (w.lanes == LANES ? P::template of<1>(count) : P::template of<WIDE>(count))(w, packed + first * size, s, sums);
        put(sums, s, first, count);
      });
  }

  // To y, token by token.
  template <class T>
  static void multiply_tile(const Weight& w, const item* packed, const float* scales, int64_t tokens, T* y,
                            Workspace& workspace) {
    const auto at = [&](int64_t strip, int64_t token) { return y + token * w.outputs + strip * w.lanes; };
    const auto fetch = [&](int64_t s, int64_t first, int64_t count) {
      for (int64_t t = 0; t < count; t++) __builtin_prefetch(at(s, first + t), 1);
    };
    multiply_tile(w, packed, tokens, workspace, fetch,
                  [&](const number* sums, int64_t s, int64_t first, int64_t count) {
                    Epilogue<P>::finish(w, sums, w.lanes, scales + first, count, s * w.lanes, w.lanes, at(s, first),
                                        w.outputs);
                  });
  }

  // To the panels that w takes.
  template <class T>
  static void multiply_tile(const Weight& inner, const Weight& w, const item* packed, int64_t tokens, item* panels,
                            const T*, Workspace& workspace) {
    const int64_t depth = depth_of(w.width);
    T* part = workspace.take<T>(3, ROWS * inner.lanes + LANES);
    Weight of_part = w;
    of_part.inputs = inner.lanes;
    const auto fetch = [](int64_t, int64_t, int64_t) {};
    multiply_tile(
        inner, packed, tokens, workspace, fetch, [&](const number* sums, int64_t s, int64_t first, int64_t count) {
          item* panel = panels + first * w.inputs / STEP + s * held(count) * inner.lanes / STEP;
          T* to = depth == inner.lanes / STEP ? (T*)panel : part;  // tokens of one row each stand in a panel as they are
          Epilogue<P>::finish(inner, sums, inner.lanes, nullptr, count, s * inner.lanes, inner.lanes, to, inner.lanes);
          if (to == part) Packing<P>::pack_panel(of_part, part, count, panel, nullptr, nullptr, held(count), depth);
        });
  }

  // Both layers, if the results of a strip of `inner` are whole parts of the panels that w takes.
  template <class T>
  static bool through_panels(const Weight& inner, const Weight& w, const T* x, T* y, int64_t tokens,
                             Workspace& workspace) {
    if constexpr (P::STORED == Stored::int8) return false;
    if (!is_wide(inner) || !is_wide(w) || inner.lanes / STEP % depth_of(w.width)) return false;
    item* packed = workspace.take<item>(0, (tokens + ROWS) * inner.inputs / STEP);
    item* between = workspace.take<item>(5, (tokens + ROWS) * w.inputs / STEP);
    pack_tile(inner, x, tokens, packed, nullptr, workspace);
    multiply_tile(inner, w, packed, tokens, between, x, workspace);
    multiply_tile(w, between, nullptr, tokens, y, workspace);
    return true;
  }

  template <class T>
  static void layer(const Weight& w, const T* x, T* y, int64_t tokens, Workspace& workspace) {
    if (is_wide(w)) {
      item* packed = workspace.take<item>(0, (tokens + ROWS) * w.inputs / STEP);
      float* scales = workspace.take<float>(3, tokens);
      pack_tile(w, x, tokens, packed, scales, workspace);
      multiply_tile(w, packed, scales, tokens, y, workspace);
      return;
    }
    if constexpr (P::GATHERS)
      if (w.width % STEP) return Gathered<P>::multiply(w, x, y, tokens, workspace);
    if constexpr (P::NARROW) Narrow<P>::multiply(w, x, y, tokens, workspace);
  }

  template <class T>
  static void tile(const Weight* inner, const Weight& w, const Norm* norm, const T* x, T* y, int64_t tokens,
                   Workspace& workspace) {
    if (!inner)
      layer(w, x, y, tokens, workspace);
    else if (!through_panels(*inner, w, x, y, tokens, workspace)) {
      T* between = workspace.take<T>(5, tokens * inner->outputs);
      layer(*inner, x, between, tokens, workspace);
      layer(w, (const T*)between, y, tokens, workspace);
    }
    if (norm == nullptr) return;
    float* sum = workspace.take<float>(4, w.outputs + LANES);
    Epilogue<P>::normalise(*norm, w.outputs, tokens, (const T*)norm->residual, y, sum);
  }
};

}  // namespace
}  // namespace qalib
