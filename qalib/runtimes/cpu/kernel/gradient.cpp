// What training needs beside the product of `block_sparse.cpp`, as torch operators: the gradient of the kept blocks of a
// weight, and packing them for that product after each step of the optimizer.

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "threads.h"

namespace {

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

template <class T>
using Pack = void (*)(const T* x, int64_t stride, int64_t tokens, int64_t width, void* panel);

// An instruction set: widths of blocks are multiples of `lanes`; `step` tokens are one item of a panel, of four bytes.
struct Path {
  const char* name;
  int64_t lanes, step;
  Pack<float> single;
  Pack<uint16_t> half;
  void (*block)(const void* y, const void* x, int64_t tokens, int64_t height, int64_t width, float* out);
};

}  // namespace

#define SINGLES 1  // float32
#define PAIRS 2    // bfloat16, two tokens to a sum in one instruction

#define PATH portable
#define BYTES 16
#define KIND SINGLES
#define MOST_ROWS 4
#include "gradient_kernel.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define X86
#include <immintrin.h>
#undef BYTES

// gcc and clang have different ways to compile a part of a file for an instruction set.
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BEGIN(set) PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define END _Pragma("clang attribute pop")
#else
#define BEGIN(set) _Pragma("GCC push_options") PRAGMA(GCC target(set))
#define END _Pragma("GCC pop_options")
#endif

#define PATH avx2
#define BYTES 32
#define KIND SINGLES
#define MOST_ROWS 4
BEGIN("avx2,fma")
#include "gradient_kernel.h"
END
#undef BYTES

#define BYTES 64
#define PATH avx512
#define KIND SINGLES
#define MOST_ROWS 8
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma")
#include "gradient_kernel.h"
END

#define PATH avx512_bf16
#define KIND PAIRS
#define MOST_ROWS 8
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16")
#include "gradient_kernel.h"
END
#endif

namespace {

constexpr int64_t TOKENS = 512;  // a block row's and the block columns' panels of so many stay in the cache
constexpr int64_t GROUPS = 4;    // of blocks, for each thread

// The instruction set of a name, or null if this machine or this kernel lacks it.
const Path* path_of(c10::string_view name) {
  if (name == "portable") return &portable::path;
#ifdef X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return nullptr;
  if (name == "avx2") return &avx2::path;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return nullptr;
  if (name == "avx512") return &avx512::path;
  if (name == "avx512_bf16" && __builtin_cpu_supports("avx512bf16")) return &avx512_bf16::path;
#endif
  return nullptr;
}

// What the width of a block must be a multiple of, or 0 if there is no such instruction set.
int64_t gradient_lanes(c10::string_view instructions) {
  const Path* path = path_of(instructions);
  return path ? path->lanes : 0;
}

struct Shape {
  int64_t tokens, inputs, outputs, height, width, blocks;
};

template <class T>
void run(const Path& path, Pack<T> pack, const Shape& s, const T* x, const T* y, const int32_t* rows,
         const int32_t* columns, float* out) {
  static thread_local std::vector<uint32_t> room;  // kept for the next call: fresh memory costs page faults
  const int64_t across = s.inputs / s.width, down = s.outputs / s.height;
  const int64_t steps = (s.tokens + path.step - 1) / path.step;
  if (room.size() < size_t(steps * (s.inputs + s.outputs) + 16)) room.resize(steps * (s.inputs + s.outputs) + 16);
  uint32_t *inputs = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) / 4 % 16,
           *outputs = inputs + steps * s.inputs;
  share(across + down, [&](int64_t i) {
    if (i < across)
      pack(x + i * s.width, s.inputs, s.tokens, s.width, inputs + i * steps * s.width);
    else
      pack(y + (i - across) * s.height, s.outputs, s.tokens, s.height, outputs + (i - across) * steps * s.height);
  });
  // Each group of blocks goes through all tokens by itself: threads that wait for one another may wait long where other
  // processes have their cores.
  const int64_t groups = std::min(s.blocks, GROUPS * at::get_num_threads());
  share(groups, [&](int64_t group) {
    const int64_t begin = s.blocks * group / groups, end = s.blocks * (group + 1) / groups;
    std::fill(out + begin * s.height * s.width, out + end * s.height * s.width, 0.0f);
    for (int64_t first = 0; first < s.tokens; first += TOKENS)
      for (int64_t b = begin; b < end; b++)
        path.block(outputs + (rows[b] * steps + first / path.step) * s.height,
                   inputs + (columns[b] * steps + first / path.step) * s.width, std::min(TOKENS, s.tokens - first),
                   s.height, s.width, out + b * s.height * s.width);
  });
}

void weight_gradient(const at::Tensor& x, const at::Tensor& y, const at::Tensor& rows, const at::Tensor& columns,
                     c10::string_view instructions, at::Tensor& out) {
  const Path* path = path_of(instructions);
  TORCH_CHECK(path, "no instruction set '", std::string(instructions), "' for gradients on this machine");
  const auto type = x.scalar_type();
  TORCH_CHECK((type == at::kFloat && path->single) || type == at::kBFloat16, path->name, " is not for ", type);
  TORCH_CHECK(y.scalar_type() == type && x.dim() == 2 && y.dim() == 2 && x.size(0) == y.size(0) && x.is_contiguous() &&
              y.is_contiguous(), "x and the gradient must be contiguous, of one type and as many tokens");
  TORCH_CHECK(out.scalar_type() == at::kFloat && out.dim() == 3 && out.is_contiguous(),
              "out must be contiguous float32 of shape (blocks, height, width)");
  const Shape s{x.size(0), x.size(1), y.size(1), out.size(1), out.size(2), out.size(0)};
  TORCH_CHECK(s.height > 0 && s.width > 0 && s.outputs % s.height == 0 && s.inputs % s.width == 0 &&
              s.width % path->lanes == 0, "blocks of ", s.height, "x", s.width, " do not suit ", path->name);
  for (const auto& [index, count] : {std::pair{&rows, s.outputs / s.height}, std::pair{&columns, s.inputs / s.width}}) {
    TORCH_CHECK(index->scalar_type() == at::kInt && index->numel() == s.blocks && index->is_contiguous(),
                "rows and columns must be contiguous int32, one for each block");
    const int32_t* values = index->const_data_ptr<int32_t>();
    for (int64_t b = 0; b < s.blocks; b++)
      TORCH_CHECK(0 <= values[b] && values[b] < count, "block ", b, " must be within ", count, ", not at ", values[b]);
  }
  if (s.tokens == 0) {
    out.zero_();
    return;
  }
  const int32_t *r = rows.const_data_ptr<int32_t>(), *c = columns.const_data_ptr<int32_t>();
  float* to = out.mutable_data_ptr<float>();
  if (type == at::kFloat)
    run(*path, path->single, s, x.const_data_ptr<float>(), y.const_data_ptr<float>(), r, c, to);
  else
    run(*path, path->half, s, static_cast<const uint16_t*>(x.const_data_ptr()),
        static_cast<const uint16_t*>(y.const_data_ptr()), r, c, to);
}

// One piece, [width / step][rows][step], of values that are `down` and `along` apart.
template <class From, class To>
void pack_piece(const From* from, int64_t down, int64_t along, int64_t rows, int64_t width, int64_t step, To* to) {
  for (int64_t k = 0; k < width; k += step)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t s = 0; s < step; s++) narrow(widen(from[i * down + (k + s) * along]), to++);
}

template <class From, class To>
void pack_all(const From* from, const at::Tensor& offsets, int64_t down, int64_t along, at::Tensor& out) {
  const int64_t *at = offsets.const_data_ptr<int64_t>(), steps = out.size(1), rows = out.size(2), step = out.size(3);
  To* to = static_cast<To*>(out.mutable_data_ptr());
  constexpr int64_t SOME = 64;  // pieces, which may be small
  const int64_t count = out.size(0), size = steps * rows * step;
  share((count + SOME - 1) / SOME, [&](int64_t part) {
    for (int64_t p = part * SOME; p < std::min(count, (part + 1) * SOME); p++)
      pack_piece(from + at[p], down, along, rows, steps * step, step, to + p * size);
  });
}

// Pieces of a weight, each from an offset on, as `block_sparse_linear` takes them: `out` is of shape
// (pieces, width / step, rows, step).
void pack_blocks(const at::Tensor& values, const at::Tensor& offsets, int64_t down, int64_t along, at::Tensor& out) {
  const auto from = values.scalar_type(), to = out.scalar_type();
  TORCH_CHECK((from == at::kFloat || from == at::kBFloat16) && (to == at::kFloat || to == at::kBFloat16),
              "values are packed in float32 or bfloat16, not from ", from, " to ", to);
  TORCH_CHECK(values.is_contiguous() && out.is_contiguous() && out.dim() == 4 && offsets.is_contiguous() &&
              offsets.scalar_type() == at::kLong && offsets.numel() == out.size(0) && down > 0 && along > 0,
              "offsets must be int64, one for each piece, and all contiguous");
  if (out.numel() == 0) return;
  const int64_t extent = (out.size(2) - 1) * down + (out.size(1) * out.size(3) - 1) * along;
  const int64_t* at = offsets.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < offsets.numel(); p++)
    TORCH_CHECK(at[p] >= 0 && at[p] + extent < values.numel(), "piece ", p, " is not within the values");
  if (from == at::kFloat) {
    const float* source = values.const_data_ptr<float>();
    to == at::kFloat ? pack_all<float, float>(source, offsets, down, along, out)
                     : pack_all<float, uint16_t>(source, offsets, down, along, out);
  } else {
    const uint16_t* source = static_cast<const uint16_t*>(values.const_data_ptr());
    to == at::kFloat ? pack_all<uint16_t, float>(source, offsets, down, along, out)
                     : pack_all<uint16_t, uint16_t>(source, offsets, down, along, out);
  }
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(qalib, m) {
  m.def("gradient_lanes(str instructions) -> int", gradient_lanes);
  m.def(
      "block_sparse_weight_gradient(Tensor x, Tensor y, Tensor rows, Tensor columns, str instructions, Tensor(a!) out) "
      "-> ()");
  m.def("pack_blocks(Tensor values, Tensor offsets, int down, int along, Tensor(a!) out) -> ()");
}
TORCH_LIBRARY_IMPL(qalib, CPU, m) {
  m.impl("block_sparse_weight_gradient", weight_gradient);
  m.impl("pack_blocks", pack_blocks);
}
