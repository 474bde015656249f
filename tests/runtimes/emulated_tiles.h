// AMX's instructions on tiles as functions, for a test on machines that have none. From Intel's Architecture Instruction Set
// Extensions reference, chapter 3: what is beyond a tile's shape is 0, bf16 below the normal numbers counts as 0.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd

namespace emulated {

struct Tile {
  int rows, bytes;  // its shape
  uint8_t data[16][64];
};
inline thread_local Tile tiles[8];

inline void configure(const void* from) {
  const uint8_t* set = static_cast<const uint8_t*>(from);
  for (int i = 0; i < 8; i++) {
    uint16_t bytes;
    std::memcpy(&bytes, set + 16 + 2 * i, 2);
    tiles[i] = Tile{set[48 + i], bytes, {}};
  }
}
inline void release() { std::memset(tiles, 0, sizeof tiles); }
inline void zero(int tile) { std::memset(tiles[tile].data, 0, sizeof tiles[tile].data); }
inline void load(int tile, const void* from, int64_t apart) {
  zero(tile);
  for (int row = 0; row < tiles[tile].rows; row++)
    std::memcpy(tiles[tile].data[row], static_cast<const char*>(from) + row * apart, tiles[tile].bytes);
}
inline void store(int tile, void* to, int64_t apart) {
  for (int row = 0; row < tiles[tile].rows; row++)
    std::memcpy(static_cast<char*>(to) + row * apart, tiles[tile].data[row], tiles[tile].bytes);
}

// sums[row][column] += f(a[row][k], b[k][column]) over items k of four bytes.
template <class T, class F>
void multiply(int sums, int a, int b, const F& f) {
  for (int row = 0; row < tiles[sums].rows; row++)
    for (int k = 0; k < tiles[a].bytes / 4; k++)
      for (int column = 0; column < tiles[sums].bytes / 4; column++) {
        T sum;
        std::memcpy(&sum, tiles[sums].data[row] + 4 * column, 4);
        sum = f(sum, tiles[a].data[row] + 4 * k, tiles[b].data[k] + 4 * column);
        std::memcpy(tiles[sums].data[row] + 4 * column, &sum, 4);
      }
}
inline void multiply_bf16(int sums, int a, int b) {
  const auto number = [](const uint8_t* from, int i) {
    uint32_t bits = (from[2 * i] | from[2 * i + 1] << 8) << 16;
    if (!(bits & 0x7f800000)) bits &= 0x80000000;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  };
  multiply<float>(sums, a, b, [&](float sum, const uint8_t* x, const uint8_t* y) {
    return std::fma(number(x, 1), number(y, 1), std::fma(number(x, 0), number(y, 0), sum));
  });
}
inline void multiply_int8(int sums, int a, int b) {  // a without, b with a sign
  multiply<int32_t>(sums, a, b, [](int32_t sum, const uint8_t* x, const uint8_t* y) {
    for (int i = 0; i < 4; i++) sum += x[i] * int8_t(y[i]);
    return sum;
  });
}

}  // namespace emulated

#define _tile_loadconfig emulated::configure
#define _tile_release emulated::release
#define _tile_zero emulated::zero
#define _tile_loadd emulated::load
#define _tile_stored emulated::store
#define _tile_dpbf16ps emulated::multiply_bf16
#define _tile_dpbusd emulated::multiply_int8
