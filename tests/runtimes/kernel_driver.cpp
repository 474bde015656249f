// The kernel without torch: each instruction set of the machine against float64, a line "name check error bound" each.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "instruction_set.h"

using namespace qalib;

namespace {

float widen(float value) { return value; }
float widen(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}
void narrow(float value, float* to) { *to = value; }
void narrow(float value, uint16_t* to) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  *to = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint32_t state = 1;
int whole(int most) {  // -most ... most
  state = state * 1664525 + 1013904223;
  return int(state >> 8) % (2 * most + 1) - most;
}
float number() { return whole(1000) / 1000.0f; }

template <class T>
T rounded(float value) {
  T found;
  narrow(value, &found);
  return found;
}

constexpr int64_t BLOCK = 32, OUTPUTS = 3 * BLOCK, INPUTS = 6 * BLOCK, TOKENS = 23;

// A layer with every other block, stored in strips of `lanes` rows, or column by column where those are a chunk. int8 is given whole numbers with 127 among them in each
// token and row: steps of 1, and sums that are exact.
struct Layer {
  std::vector<double> dense;
  std::vector<float> singles, bias, scales;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  std::vector<int32_t> starts{0}, columns, offsets;
  std::vector<int16_t> rows;
  Weight w;

  template <class T>
  Layer(const InstructionSet& set, T, int64_t lanes, int64_t outputs, int64_t inputs, bool gelu)
      : dense(outputs * inputs), bias(outputs), scales(outputs), offsets(outputs) {
    const bool int8 = set.stored == Stored::int8;
    const bool by_columns = lanes == set.chunk;
    const int64_t step = set.step, width = by_columns ? ITEMS * step : BLOCK, strips = (outputs + lanes - 1) / lanes;
    const auto block = [&](int64_t first, int64_t end, int64_t column) {  // of some rows
      columns.push_back(column);
      for (int64_t k = column; k < column + width; k += step)
        for (int64_t row = first; row < end; row++)
          for (int64_t i = k; i < k + step; i++) {
            const float value = int8 ? whole(127) : widen(rounded<T>(number()));
            dense[row * inputs + i] = value;
            singles.push_back(value);
            halves.push_back(rounded<uint16_t>(value));
            bytes.push_back(int8_t(value));
          }
    };
    for (int64_t strip = 0; strip < strips; strip++) {
      const int64_t first = strip * lanes, end = std::min(first + lanes, outputs);
      for (int64_t c = 0; c < inputs / width; c++)
        if (!by_columns) {
          if ((first / BLOCK + c) % 2 == 0) block(first, end, c * width);
        } else
          for (int64_t row = first; row < end; row++)
            if ((row + c) % 2 == 0) block(row, row + 1, c * width), rows.push_back(row - first);
      starts.push_back(columns.size());
    }
    for (int64_t row = 0; row < outputs; row++) {
      bias[row] = number(), scales[row] = int8 ? 1 / 128.0f : 1;
      if (set.bytes == 1)
        for (int64_t i = 0; i < inputs; i++) offsets[row] -= 128 * int(dense[row * inputs + i]);
    }
    const void* values = int8 ? (const void*)bytes.data()
                         : set.stored == Stored::half ? (const void*)halves.data() : singles.data();
    w = Weight{values, starts.data(), columns.data(), by_columns ? rows.data() : nullptr, bias.data(), scales.data(),
               offsets.data(), strips, lanes, width, inputs, outputs, gelu};
  }
};

template <class T>
void linear(const InstructionSet& set, Tile<T> tile, const std::string& type, int64_t lanes, bool gelu, bool normed) {
  const bool int8 = set.stored == Stored::int8;
  const Layer layer(set, T(), lanes, OUTPUTS, INPUTS, gelu);
  const auto &dense = layer.dense;
  const auto &bias = layer.bias, &scales = layer.scales;
  std::vector<float> gain(OUTPUTS), shift(OUTPUTS);
  for (int64_t row = 0; row < OUTPUTS; row++) gain[row] = 1 + number() / 2, shift[row] = number();
  std::vector<T> x(TOKENS * INPUTS), y(TOKENS * OUTPUTS), residual(TOKENS * OUTPUTS);
  for (T& value : x) value = rounded<T>(int8 ? whole(127) : number());
  for (int64_t t = 0; t < TOKENS; t++) x[t * INPUTS] = rounded<T>(int8 ? 127 : 1);
  for (T& value : residual) value = rounded<T>(number());
  const Norm norm{residual.data(), gain.data(), shift.data(), 1e-12f};
  Workspace workspace;
  tile(nullptr, layer.w, normed ? &norm : nullptr, x.data(), y.data(), TOKENS, workspace);

  double error = 0, largest = 0, widest = 0;
  for (int64_t t = 0; t < TOKENS; t++) {
    std::vector<double> expected(OUTPUTS);
    double mean = 0, variance = 0;
    for (int64_t row = 0; row < OUTPUTS; row++) {
      double sum = 0;
      for (int64_t i = 0; i < INPUTS; i++) sum += dense[row * INPUTS + i] * widen(x[t * INPUTS + i]);
      sum = sum * scales[row] + bias[row];
      sum = gelu ? sum * (1 + std::erf(sum / std::sqrt(2.0))) / 2 : sum;
      if (normed) sum += widen(residual[t * OUTPUTS + row]);
      expected[row] = sum, mean += sum / OUTPUTS, largest = std::max(largest, std::fabs(sum));
    }
    for (double value : expected) variance += (value - mean) * (value - mean) / OUTPUTS;
    widest = std::max(widest, largest / std::sqrt(variance));
    for (int64_t row = 0; row < OUTPUTS; row++) {
      const double value =
          normed ? (expected[row] - mean) / std::sqrt(variance) * gain[row] + shift[row] : expected[row];
      const double off = std::fabs(widen(y[t * OUTPUTS + row]) - value);
      error = std::max(error, std::isnan(off) ? INFINITY : off);
    }
  }
  // Twice what rounding y to the type takes; where it is normalised, in standard deviations, and rounded again.
  const double bound = (sizeof(T) == 2 ? 0x1p-8 : 2e-6) * (normed ? 1.5 * widest + 6 : largest);
  std::printf("%s linear-%s-%d%s%s %g %g\n", set.name, type.c_str(), int(lanes), gelu ? "-gelu" : "", normed ? "-norm" : "", error,
              bound);
}

// One layer by way of another must give what the two give in turn, bit by bit.
template <class T>
void in_turn(const InstructionSet& set, Tile<T> tile, const std::string& type, int64_t lanes) {
  const Layer inner(set, T(), lanes, INPUTS, OUTPUTS, true), outer(set, T(), lanes, OUTPUTS, INPUTS, false);
  std::vector<T> x(TOKENS * OUTPUTS), between(TOKENS * INPUTS), expected(TOKENS * OUTPUTS), y(TOKENS * OUTPUTS);
  for (T& value : x) value = rounded<T>(number());
  Workspace workspace;
  tile(nullptr, inner.w, nullptr, x.data(), between.data(), TOKENS, workspace);
  tile(nullptr, outer.w, nullptr, between.data(), expected.data(), TOKENS, workspace);
  tile(&inner.w, outer.w, nullptr, x.data(), y.data(), TOKENS, workspace);
  double error = 0;
  for (int64_t i = 0; i < TOKENS * OUTPUTS; i++)
    error = std::max(error, std::fabs(double(widen(y[i])) - widen(expected[i])));
  std::printf("%s in-turn-%s-%d %g 0\n", set.name, type.c_str(), int(lanes), error);
}

template <class T>
void attention(const InstructionSet& set, Attend<T> attend, const std::string& type, bool biased) {
  const Heads h{21, 2, 32, 0.25f};
  std::vector<float> bias(h.heads * (2 * h.length - 1));
  for (float& value : bias) value = biased ? 3 * number() : 0;
  const int64_t row = 3 * h.heads * h.size;
  std::vector<T> qkv(h.length * row), out(h.length * h.heads * h.size);
  for (T& value : qkv) value = rounded<T>(2 * number());
  Workspace workspace;
  double error = 0;
  for (int64_t head = 0; head < h.heads; head++) {
    const float* by_distance = &bias[head * (2 * h.length - 1)];
    attend(h, head, qkv.data(), nullptr, biased ? by_distance : nullptr, out.data(), workspace);
    const auto at = [&](int64_t token, int64_t part, int64_t i) {
      return double(widen(qkv[token * row + (part * h.heads + head) * h.size + i]));
    };
    for (int64_t q = 0; q < h.length; q++) {
      std::vector<double> share(h.length), expected(h.size);
      double sum = 0;
      for (int64_t k = 0; k < h.length; k++) {
        for (int64_t i = 0; i < h.size; i++) share[k] += at(q, 0, i) * at(k, 1, i) * h.scale;
        sum += share[k] = std::exp(share[k] + by_distance[k - q + h.length - 1]);
      }
      for (int64_t i = 0; i < h.size; i++) {
        for (int64_t k = 0; k < h.length; k++) expected[i] += share[k] / sum * at(k, 2, i);
        const double off = std::fabs(widen(out[(q * h.heads + head) * h.size + i]) - expected[i]);
        error = std::max(error, std::isnan(off) ? INFINITY : off);
      }
    }
  }
  std::printf("%s attention-%s%s %g %g\n", set.name, type.c_str(), biased ? "-biased" : "", error,
              sizeof(T) == 2 ? 0x1p-6 : 1e-5);
}

}  // namespace

int main() {
  for (const InstructionSet* set : available()) {
    for (int64_t lanes : {set->lanes[0], set->lanes[1], int64_t(3), set->chunk}) {
      if (lanes == 0 || (lanes == 3 && !set->across)) continue;
      for (int kind = 0; kind < 4; kind++) {
        if (set->single) linear(*set, set->single, "fp32", lanes, kind & 1, kind & 2);
        if (set->half) linear(*set, set->half, "bf16", lanes, kind & 1, kind & 2);
      }
      if (set->single) in_turn(*set, set->single, "fp32", lanes);
      if (set->half) in_turn(*set, set->half, "bf16", lanes);
    }
    for (bool biased : {false, true}) {
      if (set->attend_single) attention(*set, set->attend_single, "fp32", biased);
      if (set->attend_half) attention(*set, set->attend_half, "bf16", biased);
    }
  }
}
