// y = f(x W^T + b) for a weight W of which only some blocks are kept; f is nothing or GELU.
//
// W is stored in strips of `lanes` rows. Strip s has the kept blocks starts[s] ... starts[s + 1] - 1, each with the
// column where it begins and its values as [width][lanes], for bf16 pairs [width / 2][lanes][2]. Tokens are taken in
// tiles that fit into the L2 cache. A tile is packed once into panels [input][token] of up to ROWS tokens; then, strip
// by strip, ROWS x lanes sums stay in registers over all kept blocks. Threads are torch's own: at::parallel_for.
//
// With int8 values, four to an input group [width / 4][lanes][4], each token is quantised when it is packed: to 128 + x /
// scale, with the scale that takes its largest value to 127. Sums start from `offsets`, minus 128 times the weights' sum.
//
// Attention between the linear layers goes through the same multiplication: a head's keys and values are dense strips.
//
// The last part is compiled once for each instruction set (the file includes itself); which one runs is chosen by name.

#ifndef PATH

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace {

constexpr int64_t TILE_BYTES = 384 * 1024;

struct Weight {
  const void* values;
  const int32_t *starts, *columns;
  const float *bias, *scales;  // of int8 weights, a row each
  const int32_t* offsets;
  int64_t strips, lanes, width, inputs, outputs;
  bool gelu;
};

// Memory of a thread that is kept for the next call: numbered pieces, each begins a cache line.
class Room {
 public:
  template <class T>
  T* take(int number, int64_t count) {
    std::vector<char>& piece = pieces_[number];
    if (piece.size() < count * sizeof(T) + 64) piece.resize(count * sizeof(T) + 64);
    return reinterpret_cast<T*>(piece.data() + 63 - (reinterpret_cast<uintptr_t>(piece.data()) + 63) % 64);
  }

 private:
  std::vector<char> pieces_[10];
};

// One head of one sequence: from queries, keys and values of all heads, shape (length, 3, heads, size), and a number
// for each key that is added to its scores, to `out`, shape (length, heads, size).
struct Heads {
  int64_t length, heads, size;
  float scale;
};
template <class T>
using Attend = void (*)(const Heads& h, int64_t head, const T* qkv, const float* bias, T* out, Room& room);

// y, shape (tokens, outputs), from x, shape (tokens, inputs), with room for a packed tile and the sums of a panel.
template <class T>
using Tile = void (*)(const Weight& w, const T* x, T* y, int64_t tokens, void* room, void* sums);

// An instruction set: strips of `lanes[0]` or `lanes[1]` rows, panels of `rows` tokens, blocks of whole `step` inputs.
struct Path {
  const char* name;
  int64_t lanes[2], rows, step;
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

#define PATH portable
#define BYTES 16
#define WIDE 4
#ifdef __aarch64__
#define ROWS 6
#else
#define ROWS 2
#endif
#include "block_sparse.cpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86
#include <immintrin.h>
#undef BYTES
#undef WIDE
#undef ROWS

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define PATH avx2
#define BYTES 32
#define WIDE 2
#define ROWS 6
#include "block_sparse.cpp"
#undef BYTES
#undef ROWS
#pragma GCC pop_options

#define BYTES 64
#define ROWS 14
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define PATH avx512
#include "block_sparse.cpp"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16")
#define PATH avx512_bf16
#define PAIRS
#include "block_sparse.cpp"
#undef PAIRS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni")
#define PATH avx512_vnni
#define QUADS
#include "block_sparse.cpp"
#undef QUADS
#pragma GCC pop_options
#endif

namespace {

// What this machine can run, the best last, int8 after all others.
std::vector<const Path*> paths() {
  std::vector<const Path*> found{&portable::path};
#ifdef X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::path);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    found.push_back(&avx512::path);
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16::path);
    if (__builtin_cpu_supports("avx512vnni")) found.push_back(&avx512_vnni::path);
  }
#endif
  return found;
}

const Path& named(c10::string_view name) {
  for (const Path* path : paths())
    if (name == path->name) return *path;
  TORCH_CHECK(false, "this machine has no instruction set '", std::string(name), "'");
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Path* path : paths()) names.push_back(path->name);
  return names;
}

// How blocks of height x width are stored: rows of a strip, and inputs that stand together; nothing if they cannot be.
std::vector<int64_t> layout(c10::string_view instructions, int64_t height, int64_t width) {
  const Path& path = named(instructions);
  for (int64_t lanes : path.lanes)
    if (height % lanes == 0 && width % path.step == 0) return {lanes, path.step};
  return path.step == 1 ? std::vector<int64_t>{height, 1} : std::vector<int64_t>{};
}

template <class T>
void run(const Path& path, Tile<T> tile, const Weight& w, const T* x, T* y, int64_t tokens) {
  const int64_t bytes = w.inputs * 4 / path.step, threads = at::get_num_threads();
  const int64_t fit = std::max<int64_t>(1, TILE_BYTES / (bytes * path.rows)) * path.rows;
  int64_t tiles = (tokens + fit - 1) / fit;
  tiles = std::min(tokens, (tiles + threads - 1) / threads * threads);
  const size_t panels = fit * (bytes + 4), sums = path.rows * w.lanes * 4;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<char> memory;
    if (memory.size() < panels + sums + 128) memory.resize(panels + sums + 128);
    size_t space = memory.size();
    void* room = memory.data();
    std::align(64, panels + sums, room, space);
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = tokens * i / tiles, last = tokens * (i + 1) / tiles;
      tile(w, x + first * w.inputs, y + first * w.outputs, last - first, static_cast<char*>(room) + (sums + 63) / 64 * 64,
           room);
    }
  });
}

void linear(const at::Tensor& x, const at::Tensor& values, const at::Tensor& starts, const at::Tensor& columns,
            const at::Tensor& bias, const at::Tensor& scales, const at::Tensor& offsets, int64_t width, bool gelu,
            c10::string_view instructions, at::Tensor& out) {
  const Path& path = named(instructions);
  const auto type = x.scalar_type(), stored = path.step == 4 ? at::kChar : path.step == 2 ? at::kBFloat16 : at::kFloat;
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "x is ", type, ", not float32 or bfloat16");
  TORCH_CHECK(path.step != 2 || type == at::kBFloat16, "x is ", type, ", but ", path.name, " is for bfloat16");
  TORCH_CHECK(values.scalar_type() == stored, "values are ", values.scalar_type(), ", not ", stored);
  TORCH_CHECK(starts.scalar_type() == at::kInt && columns.scalar_type() == at::kInt, "starts and columns are not int32");
  TORCH_CHECK(bias.scalar_type() == at::kFloat && out.scalar_type() == type, "bias is not float32, or out not as x");
  TORCH_CHECK(scales.scalar_type() == at::kFloat && offsets.scalar_type() == at::kInt &&
              scales.numel() == offsets.numel() && scales.numel() == (path.step == 4 ? bias.numel() : 0),
              "scales and offsets do not fit");
  for (const at::Tensor* tensor :
       {&x, &values, &starts, &columns, &bias, &scales, &offsets, static_cast<const at::Tensor*>(&out)})
    TORCH_CHECK(tensor->is_contiguous(), "a tensor is not contiguous");
  TORCH_CHECK(x.dim() > 0 && starts.numel() > 1 && width > 0 && width % path.step == 0, "no weight");
  Weight w{values.const_data_ptr(), starts.const_data_ptr<int32_t>(), columns.const_data_ptr<int32_t>(),
           bias.const_data_ptr<float>(), scales.const_data_ptr<float>(), offsets.const_data_ptr<int32_t>(),
           starts.numel() - 1, bias.numel() / (starts.numel() - 1), width, x.size(-1),
           bias.numel(), gelu};
  TORCH_CHECK(w.lanes * w.strips == w.outputs && (path.step == 1 || w.lanes == path.lanes[0] || w.lanes == path.lanes[1]),
              w.outputs, " outputs in ", w.strips, " strips do not suit ", path.name);
  TORCH_CHECK(w.starts[0] == 0 && std::is_sorted(w.starts, w.starts + w.strips + 1) &&
              w.starts[w.strips] == columns.numel(), "starts do not lead through the columns");
  TORCH_CHECK(values.numel() == columns.numel() * width * w.lanes, "there are not ", columns.numel(), " blocks of values");
  for (int64_t b = 0; b < columns.numel(); b++)
    TORCH_CHECK(w.columns[b] >= 0 && w.columns[b] % path.step == 0 && w.columns[b] + width <= w.inputs, "column ",
                w.columns[b], " is not in x");
  const int64_t tokens = w.inputs ? x.numel() / w.inputs : out.numel() / w.outputs;
  TORCH_CHECK(out.numel() == tokens * w.outputs, "out has ", out.numel(), " elements, not ", tokens * w.outputs);
  if (tokens == 0) return;
  if (type == at::kFloat)
    run(path, path.single, w, x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), tokens);
  else
    run(path, path.half, w, static_cast<const uint16_t*>(x.const_data_ptr()),
        static_cast<uint16_t*>(out.mutable_data_ptr()), tokens);
}

template <class T>
void run(Attend<T> attend, const Heads& h, int64_t batch, const T* qkv, const float* bias, T* out) {
  const int64_t step = h.length * h.heads * h.size;
  at::parallel_for(0, batch * h.heads, 1, [&](int64_t begin, int64_t end) {
    static thread_local Room room;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / h.heads;
      attend(h, i % h.heads, qkv + 3 * b * step, bias ? bias + b * h.length : nullptr, out + b * step, room);
    }
  });
}

void attention(const at::Tensor& qkv, const std::optional<at::Tensor>& bias, int64_t heads, double scale,
               c10::string_view instructions, at::Tensor& out) {
  const Path& path = named(instructions);
  const auto type = qkv.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "qkv is ", type, ", not float32 or bfloat16");
  TORCH_CHECK(path.step < 4 && (path.step != 2 || type == at::kBFloat16), path.name, " does not attend in ", type);
  TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (3 * heads) == 0,
              "qkv is not of shape (batch, length, 3 * heads * size)");
  const Heads h{qkv.size(1), heads, qkv.size(2) / 3 / heads, float(scale)};
  TORCH_CHECK(h.size > 0 && h.size % path.lanes[1] == 0, "heads of ", h.size, " do not suit ", path.name);
  TORCH_CHECK(out.scalar_type() == type && out.dim() == 3 && out.size(0) == qkv.size(0) && out.size(1) == h.length &&
              out.size(2) == heads * h.size, "out does not suit qkv");
  TORCH_CHECK(qkv.is_contiguous() && out.is_contiguous() && (!bias || bias->is_contiguous()),
              "a tensor is not contiguous");
  TORCH_CHECK(!bias || (bias->scalar_type() == at::kFloat && bias->dim() == 2 && bias->size(0) == qkv.size(0) &&
              bias->size(1) == h.length), "bias is not float32 of shape (batch, length)");
  if (qkv.numel() == 0) return;
  const float* added = bias ? bias->const_data_ptr<float>() : nullptr;
  if (type == at::kFloat)
    run(path.attend_single, h, qkv.size(0), qkv.const_data_ptr<float>(), added, out.mutable_data_ptr<float>());
  else
    run(path.attend_half, h, qkv.size(0), static_cast<const uint16_t*>(qkv.const_data_ptr()), added,
        static_cast<uint16_t*>(out.mutable_data_ptr()));
}

}  // namespace

TORCH_LIBRARY(qalib, m) {
  m.def("instruction_sets() -> str[]", instruction_sets);
  m.def("layout(str instructions, int height, int width) -> int[]", layout);
  m.def(
      "block_sparse_linear(Tensor x, Tensor values, Tensor starts, Tensor columns, Tensor bias, Tensor scales, "
      "Tensor offsets, int width, bool gelu, str instructions, Tensor(a!) out) -> ()");
  m.def("attention(Tensor qkv, Tensor? bias, int heads, float scale, str instructions, Tensor(a!) out) -> ()");
}
TORCH_LIBRARY_IMPL(qalib, CPU, m) {
  m.impl("block_sparse_linear", linear);
  m.impl("attention", attention);
}

#else  // an instruction set

#define INLINE __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 16")

namespace {
namespace PATH {

constexpr int LANES = BYTES / 4;

#if defined(QUADS)
constexpr int STEP = 4, CHAIN = 1 << 20;
typedef uint32_t item __attribute__((aligned(1), may_alias));  // four inputs, unsigned
typedef int32_t number __attribute__((may_alias));
typedef int32_t loose __attribute__((vector_size(BYTES), aligned(4), may_alias));  // a vec anywhere in memory
typedef int32_t vec __attribute__((vector_size(BYTES)));
INLINE void add(vec& sum, item x, const item* w) {  // the intrinsic makes gcc 12 spill the sums
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi32(x)), "v"(_mm512_loadu_si512(w)));
}
#elif defined(PAIRS)
constexpr int STEP = 2, CHAIN = 1 << 20;
typedef uint32_t item __attribute__((aligned(2), may_alias));  // two inputs in bf16
typedef float number;
typedef float loose __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef float vec __attribute__((vector_size(BYTES)));
INLINE void add(vec& sum, item x, const item* w) {
  sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)_mm512_loadu_si512(w));
}
#else
constexpr int STEP = 1, CHAIN = 64;
typedef float item;
typedef float number;
typedef float loose __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef float vec __attribute__((vector_size(BYTES)));
INLINE void add(vec& sum, item x, const item* w) { sum += *(const loose*)w * x; }
#endif

// The sums of one panel and one strip. Registers hold those of at most CHAIN inputs, as long chains round more.
template <int TOKENS, int WIDTH>
void multiply(const Weight& w, const item* panel, int64_t strip, number* sums) {
#ifdef QUADS
  const number* start = w.offsets + strip * w.lanes;
#else
  const number* start = w.bias + strip * w.lanes;
#endif
  vec sum[TOKENS][WIDTH];
  loose* total = (loose*)sums;
  UNROLL for (int t = 0; t < TOKENS; t++)
    UNROLL for (int v = 0; v < WIDTH; v++) total[t * WIDTH + v] = ((const loose*)start)[v];
  const item* values = (const item*)w.values + w.starts[strip] * (w.width / STEP) * w.lanes;
  const int64_t chain = w.width < CHAIN ? CHAIN / w.width : 1, end = w.starts[strip + 1];
  for (int64_t b = w.starts[strip]; b < end;) {
    const int64_t until = b + chain < end ? b + chain : end;
    UNROLL for (int t = 0; t < TOKENS; t++)
      UNROLL for (int v = 0; v < WIDTH; v++) sum[t][v] = vec{};
    for (; b < until; b++) {
      const item* x = panel + w.columns[b] / STEP * TOKENS;
      for (int64_t k = 0; k < w.width / STEP; k++, x += TOKENS, values += WIDTH * LANES)
        UNROLL for (int t = 0; t < TOKENS; t++)
          UNROLL for (int v = 0; v < WIDTH; v++) add(sum[t][v], x[t], values + v * LANES);
    }
    UNROLL for (int t = 0; t < TOKENS; t++)
      UNROLL for (int v = 0; v < WIDTH; v++) total[t * WIDTH + v] += sum[t][v];
  }
}

typedef void (*Multiply)(const Weight&, const item*, int64_t, number*);
template <int WIDTH, int TOKENS = ROWS>
INLINE Multiply of(int64_t tokens) {
  if constexpr (TOKENS > 1)
    if (tokens < TOKENS) return of<WIDTH, TOKENS - 1>(tokens);
  return multiply<TOKENS, WIDTH>;
}

#if !defined(PAIRS) && !defined(QUADS)
// Strips of any height, for blocks that no vector divides.
void multiply_any(const Weight& w, const float* panel, int64_t tokens, int64_t strip, float* sums) {
  for (int64_t i = 0; i < tokens * w.lanes; i++) sums[i] = w.bias[strip * w.lanes + i % w.lanes];
  const float* values = (const float*)w.values + w.starts[strip] * w.width * w.lanes;
  for (int64_t b = w.starts[strip]; b < w.starts[strip + 1]; b++)
    for (int64_t k = 0; k < w.width; k++, values += w.lanes)
      for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < w.lanes; i++)
          sums[t * w.lanes + i] += panel[(w.columns[b] + k) * tokens + t] * values[i];
}
#endif

// x (1 + erf(x / sqrt 2)) / 2, with erf as a quotient of two polynomials fitted on -4 ... 4 (error below 3e-8).
INLINE float gelu(float x) {
  float a = x * 0.70710678f;
  a = a > 4 ? 4 : a < -4 ? -4 : a;
  const float s = a * a;
  const float p = ((((1.9867246e-06f * s + 2.8456815e-04f) * s + 3.8835329e-03f) * s + 5.3102345e-02f) * s +
                   1.9354973e-01f) * s + 1.12837914f;
  const float q = ((((3.7419684e-05f * s + 1.1856126e-03f) * s + 1.5207640e-02f) * s + 1.1535191e-01f) * s +
                   5.0486154e-01f) * s + 1;
  return 0.5f * x * (1 + a * p / q);
}

#ifndef QUADS
typedef item four __attribute__((vector_size(16)));
INLINE four load(const void* from) {
  four value;
  __builtin_memcpy(&value, from, 16);
  return value;
}
INLINE void store(four value, item* to) { __builtin_memcpy(to, &value, 16); }

// Tokens that are `stride` items apart, of each `size` items, to [size][across].
void pack(const item* x, int64_t size, int64_t stride, int64_t tokens, item* panel, int64_t across) {
  for (int64_t k = 0; k < size; k += 4) {
    const int64_t wide = size - k < 4 ? size - k : 4;
    int64_t t = 0;
    for (; wide == 4 && t + 4 <= tokens; t += 4) {
      const item* from = x + t * stride + k;
      item* to = panel + k * across + t;
      const four a = load(from), b = load(from + stride), c = load(from + 2 * stride), d = load(from + 3 * stride);
      const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      store(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), to);
      store(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), to + across);
      store(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), to + 2 * across);
      store(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), to + 3 * across);
    }
    for (; t < tokens; t++)
      for (int64_t i = 0; i < wide; i++) panel[(k + i) * across + t] = x[t * stride + k + i];
  }
}
#endif

#if !defined(PAIRS) && !defined(QUADS)
void pack(const uint16_t* x, int64_t size, int64_t stride, int64_t tokens, float* panel, int64_t across) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t k = 0; k < size; k++) panel[k * across + t] = widen(x[t * stride + k]);
}
#endif

#ifdef QUADS
template <class T>
void quantise(const T* x, int64_t inputs, int64_t tokens, item* panel, float* scales) {
  for (int64_t t = 0; t < tokens; t++, x += inputs) {
    float most = 0;
    bool broken = false;
    for (int64_t k = 0; k < inputs; k++) {
      const float value = widen(x[k]), size = value < 0 ? -value : value;
      most = size > most ? size : most;
      broken |= value != value;
    }
    const float inverse = most > 0 ? 127 / most : 0;
    scales[t] = broken ? __builtin_nanf("") : most / 127;
    for (int64_t k = 0; k < inputs; k += 4) {
      uint32_t four = 0;
      for (int i = 0; i < 4; i++)
        four |= uint32_t(uint8_t(int32_t(widen(x[k + i]) * inverse + 128.5f))) << (8 * i);
      panel[k / 4 * tokens + t] = four;
    }
  }
}
#endif

template <class T>
void tile(const Weight& w, const T* x, T* y, int64_t tokens, void* room, void* sums) {
  item* packed = (item*)room;
  const int64_t panels = (tokens + ROWS - 1) / ROWS, size = w.inputs / STEP;
#ifdef QUADS
  float* scales = (float*)(packed + tokens * size);
#endif
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = tokens * p / panels, count = tokens * (p + 1) / panels - first;
#if defined(QUADS)
    quantise(x + first * w.inputs, w.inputs, count, packed + first * size, scales + first);
#elif defined(PAIRS)
    pack((const item*)(x + first * w.inputs), size, size, count, packed + first * size, count);
#else
    pack(x + first * w.inputs, size, size, count, packed + first * size, count);
#endif
  }
  for (int64_t s = 0; s < w.strips; s++)
    for (int64_t p = 0; p < panels; p++) {
      const int64_t first = tokens * p / panels, count = tokens * (p + 1) / panels - first;
      const item* panel = packed + first * size;
      if (w.lanes == WIDE * LANES)
        of<WIDE>(count)(w, panel, s, (number*)sums);
      else if (w.lanes == LANES)
        of<1>(count)(w, panel, s, (number*)sums);
#if !defined(PAIRS) && !defined(QUADS)
      else
        multiply_any(w, panel, count, s, (number*)sums);
#endif
      float* found = (float*)sums;
#ifdef QUADS
      for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < w.lanes; i++) {
          const int64_t at = t * w.lanes + i, row = s * w.lanes + i;
          found[at] = float(((const number*)sums)[at]) * (scales[first + t] * w.scales[row]) + w.bias[row];
        }
#endif
      if (w.gelu)
        for (int64_t i = 0; i < count * w.lanes; i++) found[i] = gelu(found[i]);
      for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < w.lanes; i++)
          narrow(found[t * w.lanes + i], y + (first + t) * w.outputs + s * w.lanes + i);
    }
}

#ifndef QUADS
#ifdef PAIRS
INLINE const item* items(const uint16_t* x) { return (const item*)x; }
INLINE item join(uint16_t x, uint16_t next) { return x | uint32_t(next) << 16; }
// Each row of `count` numbers, in place, to bf16.
INLINE void shorten(float* row, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES)
    _mm256_storeu_si256((__m256i*)((uint16_t*)row + i), (__m256i)_mm512_cvtneps_pbh((__m512)*(const loose*)(row + i)));
}
#else
template <class T>
INLINE const T* items(const T* x) { return x; }
template <class T>
INLINE float join(T x, T) { return widen(x); }
INLINE void shorten(float*, int64_t) {}
#endif

// e^x for -87 <= x <= 0, what is below as -87: a polynomial around the nearest power of two (error below 2e-7 of it).
INLINE vec exponential(vec x) {
  typedef int32_t whole __attribute__((vector_size(BYTES)));
  const vec lowest = vec{} - 87.0f;
  x = x < lowest ? lowest : x;  // NaN stays
  const vec rounded = x * 1.44269504f + 12582912.0f, power = rounded - 12582912.0f;  // 1.5 * 2^23
  const vec r = x - power * 0.693359375f + power * 2.12194440e-4f;
  const vec y = (((((1.3888889e-3f * r + 8.3333333e-3f) * r + 4.1666667e-2f) * r + 0.16666667f) * r + 0.5f) * r + 1) * r +
                1;
  return (vec)((whole)y + ((whole)rounded << 23));
}

// Scores of one token, [strip][STRIP] with strips `apart`, to e^(scale (score - largest)); returns 1 over their sum.
INLINE float softmax(float* scores, int64_t strips, int64_t apart, float scale) {
  vec most = *(const loose*)scores, total = vec{};
  for (int64_t s = 0; s < strips; s++)
    for (int v = 0; v < WIDE; v++) {
      const vec x = ((const loose*)(scores + s * apart))[v];
      most = x > most ? x : most;
    }
  float largest = most[0], sum = 0;
  for (int l = 1; l < LANES; l++) largest = most[l] > largest ? most[l] : largest;
  for (int64_t s = 0; s < strips; s++)
    for (int v = 0; v < WIDE; v++) {
      loose& x = ((loose*)(scores + s * apart))[v];
      total += x = exponential((x - largest) * scale);
    }
  for (int l = 0; l < LANES; l++) sum += total[l];
  return 1 / sum;
}

template <class T>
void attend(const Heads& h, int64_t head, const T* qkv, const float* bias, T* out, Room& room) {
  constexpr int64_t STRIP = WIDE * LANES;
  const int64_t size = h.size, apart = h.heads * size, row = 3 * apart, lanes = size % STRIP ? LANES : STRIP;
  const int64_t keys = (h.length + STRIP - 1) / STRIP * STRIP, strips = std::max(keys / STRIP, size / lanes);
  const T *query = qkv + head * size, *key = query + apart, *value = key + apart;

  float *added = room.take<float>(0, keys), *nothing = room.take<float>(1, size);
  int32_t *starts = room.take<int32_t>(2, strips + 1), *columns = room.take<int32_t>(3, strips);
  for (int64_t i = 0; i < keys; i++) added[i] = i >= h.length ? -1e30f : bias ? bias[i] : 0;
  std::fill(nothing, nothing + size, 0.0f);
  for (int64_t i = 0; i <= strips; i++) starts[i] = i;
  std::fill(columns, columns + strips, 0);

  item* lefts = room.take<item>(4, keys * size / STEP);  // keys, [strip][size / STEP][STRIP]
  std::fill(lefts + (keys - STRIP) * size / STEP, lefts + keys * size / STEP, item(0));
  for (int64_t k = 0; k < h.length; k += STRIP)
    pack(items(key + k * row), size / STEP, row / STEP, std::min(STRIP, h.length - k), lefts + k * size / STEP, STRIP);
  item* rights = room.take<item>(5, keys * size / STEP);  // values, [strip][keys / STEP][lanes]
  for (int64_t d = 0; d < size; d += lanes)
    for (int64_t k = 0; k < keys; k += STEP) {
      const T* from = value + k * row + d;
      item* to = rights + (d * keys + k * lanes) / STEP;
      for (int64_t i = 0; i < lanes; i++)
        to[i] = k + STEP <= h.length ? join(from[i], from[i + (STEP - 1) * row]) : k < h.length ? join(from[i], T(0)) : 0;
    }
  const Weight scored{lefts, starts, columns, added, nullptr, nullptr, keys / STRIP, STRIP, size, size, keys, false};
  const Weight summed{rights, starts, columns, nothing, nullptr, nullptr, size / lanes, lanes, keys, keys, size, false};

  item *panel = room.take<item>(6, size / STEP * ROWS), *weights = room.take<item>(7, keys / STEP * ROWS);
  float *scores = room.take<float>(8, keys * ROWS), *sums = room.take<float>(9, ROWS * STRIP), shares[ROWS];
  const int64_t panels = (h.length + ROWS - 1) / ROWS;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = h.length * p / panels, count = h.length * (p + 1) / panels - first, strip = count * STRIP;
    pack(items(query + first * row), size / STEP, row / STEP, count, panel, count);
    for (int64_t s = 0; s < scored.strips; s++) of<WIDE>(count)(scored, panel, s, scores + s * strip);
    for (int64_t t = 0; t < count; t++) shares[t] = softmax(scores + t * STRIP, scored.strips, strip, h.scale);
    for (int64_t s = 0; s < scored.strips; s++) {
      shorten(scores + s * strip, strip);
      pack((const item*)(scores + s * strip), STRIP / STEP, STRIP / STEP, count, weights + s * strip / STEP, count);
    }
    for (int64_t s = 0; s < summed.strips; s++) {
      (lanes == STRIP ? of<WIDE>(count) : of<1>(count))(summed, weights, s, sums);
      for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < lanes; i++)
          narrow(sums[t * lanes + i] * shares[t], out + (first + t) * apart + head * size + s * lanes + i);
    }
  }
}
#endif

#define TEXT(name) #name
#define NAME(name) TEXT(name)
#ifdef PAIRS
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, STEP, nullptr, tile<uint16_t>, nullptr, attend<uint16_t>};
#elif defined(QUADS)
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, STEP, tile<float>, tile<uint16_t>, nullptr, nullptr};
#else
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, STEP, tile<float>, tile<uint16_t>,
                    attend<float>, attend<uint16_t>};
#endif
#undef TEXT
#undef NAME

}  // namespace PATH
}  // namespace

#undef INLINE
#undef UNROLL
#undef PATH
#endif
