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
// The last part is compiled once for each instruction set (the file includes itself); which one runs is chosen by name.

#ifndef PATH

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
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

// y, shape (tokens, outputs), from x, shape (tokens, inputs), with room for a packed tile and the sums of a panel.
template <class T>
using Tile = void (*)(const Weight& w, const T* x, T* y, int64_t tokens, void* room, void* sums);

// An instruction set: strips of `lanes[0]` or `lanes[1]` rows, panels of `rows` tokens, blocks of whole `step` inputs.
struct Path {
  const char* name;
  int64_t lanes[2], rows, step;
  Tile<float> single;
  Tile<uint16_t> half;
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

}  // namespace

TORCH_LIBRARY(qalib, m) {
  m.def("instruction_sets() -> str[]", instruction_sets);
  m.def("layout(str instructions, int height, int width) -> int[]", layout);
  m.def(
      "block_sparse_linear(Tensor x, Tensor values, Tensor starts, Tensor columns, Tensor bias, Tensor scales, "
      "Tensor offsets, int width, bool gelu, str instructions, Tensor(a!) out) -> ()");
}
TORCH_LIBRARY_IMPL(qalib, CPU, m) { m.impl("block_sparse_linear", linear); }

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

typedef item four __attribute__((vector_size(16)));
INLINE four load(const void* from) {
  four value;
  __builtin_memcpy(&value, from, 16);
  return value;
}
INLINE void store(four value, item* to) { __builtin_memcpy(to, &value, 16); }

// Tokens that follow one another, each of `size` items, to [size][tokens].
void pack(const item* x, int64_t size, int64_t tokens, item* panel) {
  int64_t k = 0;
  for (; k + 4 <= size; k += 4) {
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
      const item* from = x + t * size + k;
      item* to = panel + k * tokens + t;
      const four a = load(from), b = load(from + size), c = load(from + 2 * size), d = load(from + 3 * size);
      const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      store(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), to);
      store(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), to + tokens);
      store(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), to + 2 * tokens);
      store(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), to + 3 * tokens);
    }
    for (; t < tokens; t++)
      for (int i = 0; i < 4; i++) panel[(k + i) * tokens + t] = x[t * size + k + i];
  }
  for (; k < size; k++)
    for (int64_t t = 0; t < tokens; t++) panel[k * tokens + t] = x[t * size + k];
}

#if !defined(PAIRS) && !defined(QUADS)
void pack(const uint16_t* x, int64_t size, int64_t tokens, float* panel) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t k = 0; k < size; k++) panel[k * tokens + t] = widen(x[t * size + k]);
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
    pack((const item*)(x + first * w.inputs), size, count, packed + first * size);
#else
    pack(x + first * w.inputs, size, count, packed + first * size);
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

#define TEXT(name) #name
#define NAME(name) TEXT(name)
#ifdef PAIRS
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, STEP, nullptr, tile<uint16_t>};
#else
constexpr Path path{NAME(PATH), {WIDE * LANES, LANES}, ROWS, STEP, tile<float>, tile<uint16_t>};
#endif
#undef TEXT
#undef NAME

}  // namespace PATH
}  // namespace

#undef INLINE
#undef UNROLL
#undef PATH
#endif
