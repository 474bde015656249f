// The product of a panel of tokens and a strip of a weight by AMX, whose tile registers hold 16 rows of 64 bytes: one
// instruction adds the products of 16 tokens and 16 outputs over 64 bytes of inputs.
//
//     panel [input / depth][token][depth]        strip [input / STEP][lanes][STEP], as for vectors
//
//                                  | 6: weights | 7: weights |
//                     | 4: tokens  | 0: sums    | 1: sums    |
//                     | 5: tokens  | 2: sums    | 3: sums    |
//
// so that there is one load for each multiplication.

#pragma once

#include "avx512.h"

#ifdef EMULATE_TILES  // for a test, where no machine has them
#include EMULATE_TILES
#endif

namespace qalib {
namespace {

template <class Format>
struct TileProduct : Format {
  using typename Format::item, typename Format::number;
  using Format::STEP, Format::starts;

  static constexpr int64_t TILE = 16;  // rows of a tile register, and numbers of four bytes in one of its rows
  static constexpr int ROWS = 32, WIDE = 2;
  static constexpr int64_t WHOLE = ROWS;
  static constexpr bool TILES = true;
  static constexpr bool FROM_ZERO = true;  // sums may begin with 0, faster than with what is loaded
  // Vectors of float32 are faster than those of bf16 for blocks of fewer rows.
  static constexpr bool NARROW = Format::STORED == Stored::int8;

  // Items of a token that are multiplied at once, for blocks of a width: as many as a row holds and the width allows.
  INLINE static int64_t depth_of(int64_t width) {
    int64_t depth = TILE;
    while (width / STEP % depth) depth /= 2;
    return depth;
  }
  INLINE static int64_t blocks_in_chain(const Weight& w) {
    return w.width < Format::CHAIN ? Format::CHAIN / w.width : 1;
  }

  // The registers' shapes, while it lives: 0 to 3 are sums, 4 and 5 tokens, 6 and 7 weights.
  class Tiles {
   public:
    void shape(int64_t depth) {
      if (depth == depth_) return;
      struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
      } set;
      for (int i = 0; i < 8; i++) {
        set.bytes[i] = 4 * (i == 4 || i == 5 ? depth : TILE);
        set.rows[i] = i > 5 ? depth : TILE;
      }
      asm volatile("" : : "r"(&set) : "memory");  // gcc's intrinsic names the first bytes only
      _tile_loadconfig(&set);
      depth_ = depth;
    }
    ~Tiles() {
      if (depth_) _tile_release();
    }

   private:
    int64_t depth_ = 0;
  };

  // The sums of one panel and one strip: of any TOKENS tiles of tokens and WIDTH of outputs. They begin
  // with 0 if the weight's `starts` are null.
  //
  // All of a block is loaded before it is multiplied: while another thread has the other half of the core, an instruction
  // on tiles waits for the last one, unless both are loads.
  template <int TOKENS, int WIDTH>
  static void multiply(const Weight& w, const item* panel, int64_t strip, number* sums) {
    const int64_t depth = depth_of(w.width), steps = w.width / STEP / depth, apart = 4 * w.lanes;
    asm volatile("" : : : "memory");  // what tiles are loaded from is written by now
    if (starts(w)) {                  // the same for each token
      const number* start = starts(w) + strip * w.lanes;
      _tile_loadd(0, start, 0);
      if (WIDTH > 1) _tile_loadd(1, start + TILE, 0);
      if (TOKENS > 1) _tile_loadd(2, start, 0);
      if (TOKENS > 1 && WIDTH > 1) _tile_loadd(3, start + TILE, 0);
    } else {
      _tile_zero(0);
      if (WIDTH > 1) _tile_zero(1);
      if (TOKENS > 1) _tile_zero(2);
      if (TOKENS > 1 && WIDTH > 1) _tile_zero(3);
    }
    const char* values = (const char*)w.values + w.starts[strip] * (w.width / STEP) * apart;
    for (int64_t b = w.starts[strip]; b < w.starts[strip + 1]; b++) {
      const item* x = panel + w.columns[b] / STEP * ROWS;
      for (int64_t k = 0; k < steps; k++, x += depth * ROWS, values += depth * apart) {
        _tile_loadd(6, values, apart);
        _tile_loadd(4, x, 4 * depth);
        if (WIDTH > 1) _tile_loadd(7, values + 4 * TILE, apart);
        if (TOKENS > 1) _tile_loadd(5, x + TILE * depth, 4 * depth);
        add_products<TOKENS, WIDTH>();
      }
    }
    _tile_stored(0, sums, apart);
    if (WIDTH > 1) _tile_stored(1, sums + TILE, apart);
    if (TOKENS > 1) _tile_stored(2, sums + TILE * w.lanes, apart);
    if (TOKENS > 1 && WIDTH > 1) _tile_stored(3, sums + TILE * w.lanes + TILE, apart);
  }

  template <int TOKENS, int WIDTH>
  INLINE static void add_products() {
    if constexpr (Format::STORED == Stored::half) {
      _tile_dpbf16ps(0, 4, 6);
      if (WIDTH > 1) _tile_dpbf16ps(1, 4, 7);
      if (TOKENS > 1) _tile_dpbf16ps(2, 5, 6);
      if (TOKENS > 1 && WIDTH > 1) _tile_dpbf16ps(3, 5, 7);
    } else {
      _tile_dpbusd(0, 4, 6);
      if (WIDTH > 1) _tile_dpbusd(1, 4, 7);
      if (TOKENS > 1) _tile_dpbusd(2, 5, 6);
      if (TOKENS > 1 && WIDTH > 1) _tile_dpbusd(3, 5, 7);
    }
  }

  typedef void (*Multiply)(const Weight&, const item*, int64_t, number*);
  template <int WIDTH>
  INLINE static Multiply of(int64_t tokens) {
    return tokens > TILE ? multiply<2, WIDTH> : multiply<1, WIDTH>;
  }

  // A panel has room for ROWS tokens, whether they are there or not; what is computed for others is ignored.
  INLINE static int64_t held(int64_t) { return ROWS; }
  INLINE static int64_t first_of(int64_t panel, int64_t, int64_t tokens) {
    return panel * ROWS < tokens ? panel * ROWS : tokens;
  }

  // Tokens that are `stride` items apart, of each `size` items, to [size / depth][ROWS][depth].
  template <int DEPTH = TILE>
  static void pack_rows(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t depth) {
    if constexpr (DEPTH > 1)
      if (depth < DEPTH) return pack_rows<DEPTH / 2>(x, size, stride, tokens, panel, depth);
    for (int64_t k = 0; k < size; k += DEPTH, x += DEPTH, panel += ROWS * DEPTH)
      for (int64_t t = 0; t < tokens; t++) __builtin_memcpy(panel + t * DEPTH, x + t * stride, 4 * DEPTH);
  }

  static int64_t peak(int64_t rounds) {
    Tiles tiles;
    tiles.shape(TILE);
    for (int64_t round = 0; round < rounds; round++) add_products<2, 2>();
    return rounds * 4 * TILE * TILE * TILE * STEP;
  }
};

}  // namespace
}  // namespace qalib
