// The kernels as torch operators: arguments are checked, work is shared among threads.
//
// y = f(x W^T + b) for a weight W of which only some blocks are kept; f is nothing or GELU. After it a residual may be
// added and the sum normalised, while it is still in the cache. Attention between the linear layers goes through the same
// multiplication. Which instruction set runs is chosen by name. Threads are torch's own.

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <shared_mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#include "instruction_set.h"
#include "threads.h"

namespace qalib {
namespace {

// Bytes of a tile's packed tokens, a layer, and of what is normalised: most L2 caches have 512 KiB or more.
constexpr int64_t LEAST = 128 * 1024, MOST = 384 * 1024, NORMALISED = 320 * 1024;

const InstructionSet& named(c10::string_view name) {
  static const auto all = available();  // asked once: a virtual machine leaves for its host to answer
  for (const InstructionSet* set : all)
    if (name == set->name) return *set;
  TORCH_CHECK(false, "this machine has no instruction set '", std::string(name), "'");
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet* set : available()) names.push_back(set->name);
  return names;
}

// How blocks of height x width are stored: rows and columns of each piece that they are cut into, inputs that stand
// together, and rows of a strip; nothing if they cannot be. Of pieces of one column, so many of a strip stand together.
std::vector<int64_t> layout(c10::string_view instructions, int64_t height, int64_t width) {
  const InstructionSet& set = named(instructions);
  if (set.gathers && width % set.step && height % GATHERED == 0) return {GATHERED, 1, set.step, GATHERED};
  if (width % set.step) return {};
  for (int64_t lanes : set.lanes)
    if (height % lanes == 0) return {lanes, width, set.step, lanes};
  if (set.across == 0) return {};
  if (width % (ITEMS * set.step) == 0) return {1, ITEMS * set.step, set.step, set.chunk};
  return {height, width, set.step, height};
}

// The multiply-adds of `rounds` turns of the kernel's inner loop on every thread, without memory: to be timed.
int64_t peak(c10::string_view instructions, int64_t rounds) {
  const InstructionSet& set = named(instructions);
  std::atomic<int64_t> done{0};
  share(at::get_num_threads(), [&](int64_t) { done += set.peak(rounds); });
  return done;
}

bool is_wide(const Weight& w, const InstructionSet& set) { return w.lanes == set.lanes[0] || w.lanes == set.lanes[1]; }

// Bytes of the values of a weight.
int64_t stored(const Weight& w, const InstructionSet& set) {
  const int64_t bytes = set.stored == Stored::int8 ? 1 : set.stored == Stored::half ? 2 : 4;
  return w.starts[w.strips] * w.width * (w.rows ? 1 : w.lanes) * bytes;
}

// A number of tiles for so many tokens, each with so many bytes to be normalised: a tile stays in the cache, is no larger
// than the weights (or LEAST), which are read once a tile, and threads get equally many.
int64_t tiles(const InstructionSet& set, const std::vector<Weight>& layers, int64_t tokens, int64_t normalised) {
  const int64_t threads = at::get_num_threads();
  int64_t held = set.rows, bytes = 0, weights = 0;  // of a token
  for (const Weight& w : layers) {
    bytes += w.inputs * set.bytes;
    weights += stored(w, set);
    if (!is_wide(w, set)) held = set.across;
  }
  const int64_t room = std::clamp<int64_t>(weights, LEAST, MOST * layers.size());
  const int64_t most = std::min(room / (bytes + 1), NORMALISED / (normalised + 1));
  const int64_t fit = held > set.rows ? held : held * std::max<int64_t>(1, most / held);
  const int64_t count = (tokens + fit - 1) / fit;
  return std::min(tokens, (count + threads - 1) / threads * threads);
}

template <class T>
void run(const InstructionSet& set, Tile<T> tile, const std::vector<Weight>& layers, const std::optional<Norm>& norm, const T* x,
         T* y, int64_t tokens) {
  const Weight *inner = layers.size() > 1 ? &layers[0] : nullptr, &w = layers.back();
  const int64_t count = tiles(set, layers, tokens, norm ? 2 * w.outputs * sizeof(T) : 0);
  if (inner) {
    // Tiles of both layers are smaller. Reading the weights more often may cost more than results that leave the cache.
    const int64_t more = count - tiles(set, {*inner}, tokens, 0);
    if (more * stored(*inner, set) > 8 * tokens * inner->outputs * int64_t(sizeof(T))) {
      static thread_local Workspace workspace;
      T* between = workspace.take<T>(0, tokens * inner->outputs);
      run(set, tile, {*inner}, std::nullopt, x, between, tokens);
      return run(set, tile, {w}, norm, static_cast<const T*>(between), y, tokens);
    }
  }
  const auto start = [&](int64_t i) { return i == count ? tokens : tokens * i / count / set.whole * set.whole; };
  share(count, [&](int64_t i) {
    static thread_local Workspace workspace;
    const int64_t first = start(i), some = start(i + 1) - first;
    if (some == 0) return;
    Norm here = norm.value_or(Norm{});
    if (norm) here.residual = static_cast<const T*>(norm->residual) + first * w.outputs;
    tile(inner, w, norm ? &here : nullptr, x + first * layers[0].inputs, y + first * w.outputs, some, workspace);
  });
}

// The arguments of LayerNorm, or nothing where there are none.
std::optional<Norm> normed(const std::optional<at::Tensor>& residual, const std::optional<at::Tensor>& gain,
                           const std::optional<at::Tensor>& shift, double epsilon, const at::Tensor& out,
                           int64_t outputs) {
  if (!residual) return {};
  TORCH_CHECK(residual->scalar_type() == out.scalar_type() && residual->numel() == out.numel() &&
              residual->is_contiguous() && residual->const_data_ptr() != out.const_data_ptr(),
              "the residual does not suit out");
  for (const auto* tensor : {&gain, &shift})
    TORCH_CHECK(*tensor && (*tensor)->scalar_type() == at::kFloat && (*tensor)->numel() == outputs &&
                (*tensor)->is_contiguous(), "the norm's weight and bias are not float32 of ", outputs);
  return Norm{residual->const_data_ptr(), gain->const_data_ptr<float>(), shift->const_data_ptr<float>(), float(epsilon)};
}

// A layer's weight as an instruction set takes it: validated once, when it is made, and immutable.
class PackedWeight : public torch::CustomClassHolder {
 public:
  using State = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, int64_t,
                           int64_t, int64_t, bool, std::string>;

  // `starts`, `columns` and `rows`, which say where in memory to read, are copied.
  PackedWeight(at::Tensor values, at::Tensor starts, at::Tensor columns, at::Tensor rows, at::Tensor bias,
               at::Tensor scales, at::Tensor offsets, int64_t inputs, int64_t lanes, int64_t width, bool gelu,
               const std::string& instructions)
      : set(named(instructions)),
        state_(values, starts.clone(), columns.clone(), rows.clone(), bias, scales, offsets, inputs, lanes, width, gelu,
               instructions) {
    check();
  }

  State state() const { return state_; }

  // Operators take a weight by its number: torch's binding takes microseconds to hand over an object.
  static int64_t number(const c10::intrusive_ptr<PackedWeight>& weight) {
    const std::unique_lock<std::shared_mutex> lock(all().mutex);
    if (weight->number_ < 0) all().weights.emplace(weight->number_ = all().next++, weight);
    return weight->number_;
  }
  static c10::intrusive_ptr<PackedWeight> of(int64_t number) {
    const std::shared_lock<std::shared_mutex> lock(all().mutex);
    const auto entry = all().weights.find(number);
    auto weight = entry == all().weights.end() ? nullptr : entry->second.lock();
    TORCH_CHECK(weight, "no packed weight has the number ", number);
    return weight;
  }
  void release_resources() override {  // when the last object that holds it is gone
    const std::unique_lock<std::shared_mutex> lock(all().mutex);
    all().weights.erase(number_);
  }

  const InstructionSet& set;
  Weight w;

 private:
  void check() {
    const auto& [values, starts, columns, rows, bias, scales, offsets, inputs, lanes, width, gelu, _] = state_;
    const bool int8 = set.stored == Stored::int8;
    const auto stored = int8 ? at::kChar : set.stored == Stored::half ? at::kBFloat16 : at::kFloat;
    TORCH_CHECK(values.scalar_type() == stored, "values are ", values.scalar_type(), ", not ", stored);
    TORCH_CHECK(starts.scalar_type() == at::kInt && columns.scalar_type() == at::kInt,
                "starts and columns are not int32");
    TORCH_CHECK(rows.scalar_type() == at::kShort && (rows.numel() == 0 || rows.numel() == columns.numel()),
                "rows are not int16, one of each block");
    TORCH_CHECK(bias.scalar_type() == at::kFloat, "bias is not float32");
    TORCH_CHECK(scales.scalar_type() == at::kFloat && offsets.scalar_type() == at::kInt &&
                scales.numel() == offsets.numel() && scales.numel() == (int8 ? bias.numel() : 0),
                "scales and offsets do not fit");
    for (const at::Tensor* tensor : {&values, &starts, &columns, &rows, &bias, &scales, &offsets})
      TORCH_CHECK(tensor->is_contiguous() && tensor->is_cpu(), "a tensor is not contiguous, or not on the CPU");
    const bool gathered = set.gathers && width == 1 && lanes == GATHERED && rows.numel() == 0;
    TORCH_CHECK(starts.numel() > 1 && lanes > 0 && width > 0 && (width % set.step == 0 || gathered), "no weight");
    w = {values.const_data_ptr(), starts.const_data_ptr<int32_t>(), columns.const_data_ptr<int32_t>(),
         rows.numel() ? rows.const_data_ptr<int16_t>() : nullptr, bias.const_data_ptr<float>(),
         scales.const_data_ptr<float>(), offsets.const_data_ptr<int32_t>(), starts.numel() - 1, lanes, width, inputs,
         bias.numel(), gelu};
    const int64_t blocks = columns.numel(), last = w.outputs - (w.strips - 1) * lanes;  // rows of the last strip
    TORCH_CHECK(0 < last && (last == lanes || lanes == set.chunk) && last <= lanes, w.outputs, " outputs are not in ",
                w.strips, " strips of ", lanes, " rows");
    TORCH_CHECK(set.across || is_wide(w, set), set.name, " is not for strips of ", lanes, " rows");
    TORCH_CHECK(w.starts[0] == 0 && std::is_sorted(w.starts, w.starts + w.strips + 1) && w.starts[w.strips] == blocks,
                "starts must ascend from 0 to ", blocks);
    TORCH_CHECK(values.numel() == blocks * width * (w.rows ? 1 : lanes), "there are not ", blocks, " blocks of values");
    for (int64_t s = 0; gathered && s < w.strips; s++)
      TORCH_CHECK(w.starts[s] % set.step == 0, "strip ", s, " does not begin with a whole item");
    for (int64_t b = 0; b < blocks; b++)
      TORCH_CHECK(w.columns[b] >= 0 && w.columns[b] % width == 0 && w.columns[b] + width <= inputs, "column ",
                  w.columns[b], " is not among ", inputs, " inputs");
    if (!w.rows) return;
    TORCH_CHECK(lanes == set.chunk && width == ITEMS * set.step, set.name,
                " does not take rows of blocks in strips of ", lanes, " rows, ", width, " columns wide");
    for (int64_t b = 0; b < blocks; b++)
      TORCH_CHECK(w.rows[b] >= 0 && w.rows[b] < (b < w.starts[w.strips - 1] ? lanes : last), "row ", w.rows[b],
                  " is not in its strip");
  }

  struct Numbered {
    std::shared_mutex mutex;
    std::unordered_map<int64_t, c10::weak_intrusive_ptr<PackedWeight>> weights;
    int64_t next = 0;
  };
  static Numbered& all() {
    static auto* numbered = new Numbered;  // for as long as there may be weights
    return *numbered;
  }

  State state_;
  int64_t number_ = -1;
};
using Packed = c10::intrusive_ptr<PackedWeight>;

void linear(const at::Tensor& x, int64_t number, std::optional<int64_t> inner_number,
            const std::optional<at::Tensor>& residual, const std::optional<at::Tensor>& gain,
            const std::optional<at::Tensor>& shift, double epsilon, at::Tensor& out) {
  const Packed weight = PackedWeight::of(number), inner = inner_number ? PackedWeight::of(*inner_number) : nullptr;
  const InstructionSet& set = weight->set;
  const auto type = x.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "x is ", type, ", not float32 or bfloat16");
  TORCH_CHECK(set.single || type == at::kBFloat16, "x is ", type, ", but ", set.name, " is for bfloat16");
  TORCH_CHECK(out.scalar_type() == type && x.is_contiguous() && out.is_contiguous() && x.dim() > 0,
              "out is not as x, or one is not contiguous");
  std::vector<Weight> layers{weight->w};
  if (inner) {
    TORCH_CHECK(&inner->set == &set, "inner is for ", inner->set.name, ", not ", set.name);
    TORCH_CHECK(inner->w.outputs == weight->w.inputs, "inner has ", inner->w.outputs, " outputs, not ",
                weight->w.inputs);
    layers.insert(layers.begin(), inner->w);
  }
  const int64_t inputs = layers[0].inputs, outputs = layers.back().outputs;
  TORCH_CHECK(x.size(-1) == inputs, "x has ", x.size(-1), " inputs, not ", inputs);
  const int64_t tokens = inputs ? x.numel() / inputs : out.numel() / outputs;
  TORCH_CHECK(out.numel() == tokens * outputs, "out has ", out.numel(), " elements, not ", tokens * outputs);
  if (tokens == 0) return;
  const std::optional<Norm> norm = normed(residual, gain, shift, epsilon, out, outputs);
  if (type == at::kFloat)
    run(set, set.single, layers, norm, x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), tokens);
  else
    run(set, set.half, layers, norm, static_cast<const uint16_t*>(x.const_data_ptr()),
        static_cast<uint16_t*>(out.mutable_data_ptr()), tokens);
}

template <class T>
void run(Attend<T> attend, const Heads& h, int64_t batch, const T* qkv, const float* mask, const float* bias, T* out) {
  const int64_t step = h.length * h.heads * h.size;
  share(batch * h.heads, [&](int64_t i) {
    static thread_local Workspace workspace;
    const int64_t b = i / h.heads, head = i % h.heads;
    attend(h, head, qkv + 3 * b * step, mask ? mask + b * h.length : nullptr,
           bias ? bias + head * (2 * h.length - 1) : nullptr, out + b * step, workspace);
  });
}

void attention(const at::Tensor& qkv, const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& bias,
               int64_t heads, double scale, c10::string_view instructions, at::Tensor& out) {
  const InstructionSet& set = named(instructions);
  const auto type = qkv.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "qkv is ", type, ", not float32 or bfloat16");
  TORCH_CHECK(type == at::kFloat ? set.attend_single != nullptr : set.attend_half != nullptr, set.name, " does not attend in ", type);
  TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (3 * heads) == 0,
              "qkv is not of shape (batch, length, 3 * heads * size)");
  const Heads h{qkv.size(1), heads, qkv.size(2) / 3 / heads, float(scale)};
  TORCH_CHECK(h.size > 0 && h.size % set.lanes[1] == 0, "heads of ", h.size, " do not suit ", set.name);
  TORCH_CHECK(out.scalar_type() == type && out.dim() == 3 && out.size(0) == qkv.size(0) && out.size(1) == h.length &&
              out.size(2) == heads * h.size, "out does not suit qkv");
  TORCH_CHECK(qkv.is_contiguous() && out.is_contiguous(), "qkv or out is not contiguous");
  const auto added = [](const char* name, const std::optional<at::Tensor>& tensor, int64_t rows, int64_t columns) {
    TORCH_CHECK(!tensor || (tensor->scalar_type() == at::kFloat && tensor->is_contiguous() && tensor->dim() == 2 &&
                tensor->size(0) == rows && tensor->size(1) == columns), name, " must be float32 of shape (", rows, ", ",
                columns, "), contiguous");
    return tensor ? tensor->const_data_ptr<float>() : nullptr;
  };
  const float* of_key = added("mask", mask, qkv.size(0), h.length);
  const float* of_distance = added("bias", bias, heads, std::max<int64_t>(2 * h.length - 1, 0));
  if (qkv.numel() == 0) return;
  if (type == at::kFloat)
    run(set.attend_single, h, qkv.size(0), qkv.const_data_ptr<float>(), of_key, of_distance,
        out.mutable_data_ptr<float>());
  else
    run(set.attend_half, h, qkv.size(0), static_cast<const uint16_t*>(qkv.const_data_ptr()), of_key, of_distance,
        static_cast<uint16_t*>(out.mutable_data_ptr()));
}

}  // namespace
}  // namespace qalib

TORCH_LIBRARY(qalib, m) {
  m.def("instruction_sets() -> str[]", qalib::instruction_sets);
  m.def("peak(str instructions, int rounds) -> int", qalib::peak);
  m.def("layout(str instructions, int height, int width) -> int[]", qalib::layout);
  m.class_<qalib::PackedWeight>("PackedWeight")
      .def(torch::init<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, int64_t,
                       int64_t, int64_t, bool, const std::string&>())
      .def("number", [](const qalib::Packed& self) { return qalib::PackedWeight::number(self); })
      .def_pickle([](const qalib::Packed& self) { return self->state(); },
                  [](qalib::PackedWeight::State state) {
                    return std::apply([](auto&&... parts) { return c10::make_intrusive<qalib::PackedWeight>(parts...); },
                                      state);
                  });
  m.def(
      "block_sparse_linear(Tensor x, int weight, int? inner, Tensor? residual, Tensor? norm_weight, "
      "Tensor? norm_bias, float epsilon, Tensor(a!) out) -> ()");
  m.def(
      "attention(Tensor qkv, Tensor? mask, Tensor? bias, int heads, float scale, str instructions, Tensor(a!) out) -> ()");
}
TORCH_LIBRARY_IMPL(qalib, CPU, m) {
  m.impl("block_sparse_linear", qalib::linear);
  m.impl("attention", qalib::attention);
}

