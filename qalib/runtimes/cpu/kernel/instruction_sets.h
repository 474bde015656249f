// The kernel, compiled once for each instruction set that the compiler knows, and those that this machine can run.
//
// Nothing here needs torch: `block_sparse.cpp` makes operators of it, and a test runs it under an emulator.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "gelu_bump.h"

namespace {

constexpr int ITEMS = 4;  // of blocks with one row of a strip

struct Weight {
  const void* values;
  const int32_t *starts, *columns;
  const int16_t* rows;  // within their strips, of blocks that have one; null where they have all rows
  const float *bias, *scales;  // of int8 weights, a row each
  const int32_t* offsets;
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
  T* take(int number, int64_t count) {
    std::vector<char>& piece = pieces_[number];
    if (piece.size() < count * sizeof(T) + 64) piece.resize(count * sizeof(T) + 64);
    return reinterpret_cast<T*>(piece.data() + 63 - (reinterpret_cast<uintptr_t>(piece.data()) + 63) % 64);
  }

 private:
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
using Tile = void (*)(const Weight* inner, const Weight& w, const Norm* norm, const T* x, T* y, int64_t tokens, Workspace& workspace);

enum class Stored { single, half, int8 };

// An instruction set: strips of `lanes[0]` or `lanes[1]` rows with panels of `rows` tokens, `whole` of them never parted
// among threads; strips of other heights, where `across` is not 0, with panels of so many. Blocks of one row stand in
// strips of `chunk`. Blocks are of whole `step` inputs, activations take `bytes` in a panel. A function that is null
// cannot be had.
struct Path {
  const char* name;
  int64_t lanes[2], rows, whole, across, chunk, step, bytes;
  Stored stored;
  int64_t (*peak)(int64_t rounds);
  Tile<float> single;
  Tile<uint16_t> half;
  Attend<float> attend_single;
  Attend<uint16_t> attend_half;
};

inline float widen(float value) { return value; }
inline float widen(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

inline void narrow(float value, float* to) { *to = value; }
inline void narrow(float value, uint16_t* to) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  *to = value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

// What each part is compiled for: vectors of BYTES, panels of ROWS tokens by WIDE vectors, and how numbers are held.
#define SINGLES 1   // float32 weights and activations
#define PAIRS 2     // both bf16, two inputs to a sum in one instruction
#define WORDS 3     // int8 weights widened to 16 bits, activations of 16 bits, two inputs to a sum
#define QUADS 4     // int8 weights, activations of 8 bits without a sign, four inputs to a sum

#define PATH portable
#define BYTES 16
#define WIDE 4
#define KIND SINGLES
#ifdef __aarch64__
#define ROWS 6
#else
#define ROWS 2
#endif
#include "block_sparse_kernel.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define X86
#include <cpuid.h>
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of gcc's own header, where it is left so on purpose
#endif
#include <immintrin.h>
#undef BYTES
#undef WIDE
#undef ROWS
#undef KIND

// gcc and clang have different ways to compile a part of a file for an instruction set.
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BEGIN(set) PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define END _Pragma("clang attribute pop")
#else
#define BEGIN(set) _Pragma("GCC push_options") PRAGMA(GCC target(set))
#define END _Pragma("GCC pop_options")
#endif

#define WIDE 2
#define BYTES 32
#define ROWS 6

#define PATH avx2
#define KIND SINGLES
BEGIN("avx2,fma")
#include "block_sparse_kernel.h"
END
#undef KIND

#define PATH avx2_int8
#define KIND WORDS
BEGIN("avx2,fma")
#include "block_sparse_kernel.h"
END
#undef KIND

#define PATH avx_vnni
#define KIND QUADS
BEGIN("avx2,fma,avxvnni")
#include "block_sparse_kernel.h"
END
#undef KIND

// Whether vectors of float32 become bf16 in one instruction.
namespace {
const bool narrows = __builtin_cpu_supports("avx512bf16");
}

#undef BYTES
#undef ROWS
#define BYTES 64
#define ROWS 14

#define PATH avx512
#define KIND SINGLES
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma")
#include "block_sparse_kernel.h"
END
#undef KIND

#define PATH avx512_bf16
#define KIND PAIRS
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16")
#include "block_sparse_kernel.h"
END
#undef KIND

#define PATH avx512_vnni
#define KIND QUADS
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni")
#include "block_sparse_kernel.h"
END

#if defined(__linux__) && (defined(__clang__) || __GNUC__ > 10)
#define AMX
#ifdef EMULATE_TILES  // for a test, where no machine has them
#include EMULATE_TILES
#endif
#include <sys/syscall.h>
#include <unistd.h>
#undef ROWS
#undef KIND
#define ROWS 32
#define TILES

#define PATH amx_bf16
#define KIND PAIRS
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16,amx-tile,amx-bf16")
#include "block_sparse_kernel.h"
END
#undef KIND

#define PATH amx_int8
#define KIND QUADS
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni,avx512bf16,amx-tile,amx-int8")
#include "block_sparse_kernel.h"
END
#endif
#endif

namespace {

#ifdef X86
// Bit 4 of EAX in leaf 7.1: not every compiler that has the instructions can ask for them by name.
inline bool has_avx_vnni() {
#ifdef EMULATE_VNNI
  return true;
#endif
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#ifdef AMX
// Whether there are tiles for bf16 and int8, and Linux, which must be asked, lets this process use them.
inline bool has_amx() {
#ifdef EMULATE_TILES
  return __builtin_cpu_supports("avx512bf16");
#endif
  constexpr int PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned WANTED = 1u << 22 | 1u << 24 | 1u << 25;
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & WANTED) == WANTED &&
         syscall(SYS_arch_prctl, PERMISSION, TILE_DATA) == 0;
}
#endif

// What this machine can run, from the least to the most that it takes.
inline std::vector<const Path*> paths() {
  std::vector<const Path*> found{&portable::path};
#ifdef X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return found;
  found.insert(found.end(), {&avx2::path, &avx2_int8::path});
  if (has_avx_vnni()) found.push_back(&avx_vnni::path);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    found.push_back(&avx512::path);
    // Intel's take two cycles for what AMD's do in one: there float32 multiplies bf16 activations faster.
    if (__builtin_cpu_supports("avx512bf16"))
      found.insert(found.end() - (__builtin_cpu_is("intel") ? 1 : 0), &avx512_bf16::path);
    if (__builtin_cpu_supports("avx512vnni")) found.push_back(&avx512_vnni::path);
#ifdef AMX
    if (has_amx()) found.insert(found.end(), {&amx_bf16::path, &amx_int8::path});
#endif
  }
#endif
  return found;
}

}  // namespace
