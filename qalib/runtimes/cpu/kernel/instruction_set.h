// What an instruction set offers the operators of `block_sparse.cpp`, and what they hand it. Nothing here needs torch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#define INLINE __attribute__((always_inline)) inline

namespace qalib {

constexpr int ITEMS = 4;     // of blocks with one row of a strip
constexpr int GATHERED = 4;  // rows of a strip whose inputs are gathered, four at a time (see `gathered.h`)

// A weight in strips of `lanes` rows. Strip s has the kept blocks starts[s] ... starts[s + 1] - 1, each with the column
// where it begins and its values, STEP inputs side by side:
//
//      columns[b]                            values of b
//          |<- width ->|                   [width / STEP][lanes][STEP]
//     +----+-----------+------------+
//     |    |  block b  |            |  }
//     |    |           |            |  }  lanes rows: strip s
//     +----+-----------+------------+
struct Weight {
  const void* values;
  const int32_t *starts, *columns;
  const int16_t* rows;  // within their strips, of blocks that have one; null where they have all rows
  const float *bias, *scales;  // of int8 weights, a row each
  const int32_t* offsets;      // of int8 weights, what sums start from
  int64_t strips, lanes, width, inputs, outputs;
  bool gelu;
};

// y = LayerNorm(y + residual), the residual as y.
struct Norm {
  const void* residual;
  const float *gain, *shift;
  float epsilon;
};

// Memory of a thread that is kept for the next call: numbered pieces, each begins a cache line.
class Workspace {
 public:
  template <class T>
  INLINE T* take(int number, int64_t count) {
    return reinterpret_cast<T*>(piece(number, count * sizeof(T)));
  }

 private:
  char* piece(int number, size_t bytes);
  std::vector<char> pieces_[11];
};

// One head of one sequence: from queries, keys and values of all heads, shape (length, 3, heads, size), to `out`, shape
// (length, heads, size). To the scores are added, before they are scaled, a number for each key, `mask`, and, after it, one
// for each distance, `bias[key - query + length - 1]`; both may be null.
struct Heads {
  int64_t length, heads, size;
  float scale;
};
template <class T>
using Attend = void (*)(const Heads& h, int64_t head, const T* qkv, const float* mask, const float* bias, T* out,
                        Workspace& workspace);

// y, shape (tokens, outputs), from x, shape (tokens, inputs), by way of `inner`; that and `norm` may be null.
template <class T>
using Tile = void (*)(const Weight* inner, const Weight& w, const Norm* norm, const T* x, T* y, int64_t tokens,
                      Workspace& workspace);

enum class Stored { single, half, int8 };

// Strips have `lanes[0]` or `lanes[1]` rows, with panels of `rows` tokens, `whole` of them never split among threads; or
// other heights, where `across` is not 0, with panels of so many. Blocks of one row are in strips of `chunk`. Blocks have
// whole `step` inputs, or any width where it `gathers`. Activations take `bytes` in a panel. A function that is null is
// unsupported.
struct InstructionSet {
  const char* name;
  int64_t lanes[2], rows, whole, across, chunk, step, bytes;
  bool gathers;
  Stored stored;
  int64_t (*peak)(int64_t rounds);
  Tile<float> single;
  Tile<uint16_t> half;
  Attend<float> attend_single;
  Attend<uint16_t> attend_half;
};

extern const InstructionSet portable, avx2, avx2_int8, avx_vnni, avx512, avx512_bf16, avx512_vnni, amx_bf16, amx_int8;

// Those that this machine can run, from the least to the most that it takes.
std::vector<const InstructionSet*> available();

extern const bool narrows;  // whether the processor has vcvtneps2bf16: vectors of float32 to bf16 in one instruction

// GELU's bump (see `Avx512::gelu`) as a cubic polynomial on each of 32 segments, lowest power first.
constexpr float BUMP_TOP = 5.75f, BUMP_PACE = 31 / BUMP_TOP;
struct Bump {
  Bump();
  alignas(64) float terms[4][32];
};
extern const Bump bump;

}  // namespace qalib
