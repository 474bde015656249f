// The kernel without torch: each instruction set of the machine against float64, a line "name check error bound" each.

#include <cmath>
#include <cstdio>
#include <string>

#include "instruction_sets.h"

namespace {

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

constexpr int64_t BLOCK = 32, ROWS_OF_BLOCKS = 3, COLUMNS_OF_BLOCKS = 5, TOKENS = 23;
constexpr int64_t OUTPUTS = BLOCK * ROWS_OF_BLOCKS, INPUTS = BLOCK * COLUMNS_OF_BLOCKS;

// Blocks are stored in strips of `lanes` rows. int8 is given whole numbers with 127 among them in each token and row: steps of 1, and sums that are exact.
template <class T>
void linear(const Path& path, Tile<T> tile, const std::string& type, int64_t lanes, bool gelu, bool normed) {
  const bool int8 = path.stored == Stored::int8;
  const int64_t step = path.step;
  std::vector<double> dense(OUTPUTS * INPUTS);
  std::vector<float> singles, bias(OUTPUTS), scales(OUTPUTS), gain(OUTPUTS), shift(OUTPUTS);
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  std::vector<int32_t> starts{0}, columns, offsets(OUTPUTS);
  for (int64_t strip = 0; strip < OUTPUTS / lanes; strip++) {
    for (int64_t c = 0; c < COLUMNS_OF_BLOCKS; c++) {
      if ((strip * lanes / BLOCK + c) % 2) continue;
      columns.push_back(c * BLOCK);
      for (int64_t k = 0; k < BLOCK; k += step)
        for (int64_t row = strip * lanes; row < (strip + 1) * lanes; row++)
          for (int64_t i = k; i < k + step; i++) {
            const float value = int8 ? whole(127) : widen(rounded<T>(number()));
            dense[row * INPUTS + c * BLOCK + i] = value;
            singles.push_back(value);
            halves.push_back(rounded<uint16_t>(value));
            bytes.push_back(int8_t(value));
          }
    }
    starts.push_back(columns.size());
  }
  for (int64_t row = 0; row < OUTPUTS; row++) {
    bias[row] = number(), gain[row] = 1 + number() / 2, shift[row] = number(), scales[row] = int8 ? 1 / 128.0f : 1;
    if (path.bytes == 1)
      for (int64_t i = 0; i < INPUTS; i++) offsets[row] -= 128 * int(dense[row * INPUTS + i]);
  }
  std::vector<T> x(TOKENS * INPUTS), y(TOKENS * OUTPUTS), residual(TOKENS * OUTPUTS);
  for (T& value : x) value = rounded<T>(int8 ? whole(127) : number());
  for (int64_t t = 0; t < TOKENS; t++) x[t * INPUTS] = rounded<T>(int8 ? 127 : 1);
  for (T& value : residual) value = rounded<T>(number());
  const void* values = int8 ? (const void*)bytes.data() : path.stored == Stored::half ? (const void*)halves.data()
                                                                                      : singles.data();
  const Weight w{values, starts.data(), columns.data(), bias.data(), scales.data(), offsets.data(),
                 OUTPUTS / lanes, lanes, BLOCK, INPUTS, OUTPUTS, gelu};
  const Norm norm{residual.data(), gain.data(), shift.data(), 1e-12f};
  Workspace workspace;
  tile(w, normed ? &norm : nullptr, x.data(), y.data(), TOKENS, workspace);

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
  std::printf("%s linear-%s-%d%s%s %g %g\n", path.name, type.c_str(), int(lanes), gelu ? "-gelu" : "", normed ? "-norm" : "", error,
              bound);
}

template <class T>
void attention(const Path& path, Attend<T> attend, const std::string& type) {
  const Heads h{21, 2, 32, 0.25f};
  const int64_t row = 3 * h.heads * h.size;
  std::vector<T> qkv(h.length * row), out(h.length * h.heads * h.size);
  for (T& value : qkv) value = rounded<T>(2 * number());
  Workspace workspace;
  double error = 0;
  for (int64_t head = 0; head < h.heads; head++) {
    attend(h, head, qkv.data(), nullptr, out.data(), workspace);
    const auto at = [&](int64_t token, int64_t part, int64_t i) {
      return double(widen(qkv[token * row + (part * h.heads + head) * h.size + i]));
    };
    for (int64_t q = 0; q < h.length; q++) {
      std::vector<double> share(h.length), expected(h.size);
      double sum = 0;
      for (int64_t k = 0; k < h.length; k++) {
        for (int64_t i = 0; i < h.size; i++) share[k] += at(q, 0, i) * at(k, 1, i) * h.scale;
        sum += share[k] = std::exp(share[k]);
      }
      for (int64_t i = 0; i < h.size; i++) {
        for (int64_t k = 0; k < h.length; k++) expected[i] += share[k] / sum * at(k, 2, i);
        const double off = std::fabs(widen(out[(q * h.heads + head) * h.size + i]) - expected[i]);
        error = std::max(error, std::isnan(off) ? INFINITY : off);
      }
    }
  }
  std::printf("%s attention-%s %g %g\n", path.name, type.c_str(), error, sizeof(T) == 2 ? 0x1p-6 : 1e-5);
}

}  // namespace

int main() {
  for (const Path* path : paths()) {
    for (int64_t lanes : {path->lanes[0], path->lanes[1], int64_t(3)}) {
      if (BLOCK % lanes && (lanes > 3 || !path->across)) continue;
      for (int kind = 0; kind < 4; kind++) {
        if (path->single) linear(*path, path->single, "fp32", lanes, kind & 1, kind & 2);
        if (path->half) linear(*path, path->half, "bf16", lanes, kind & 1, kind & 2);
      }
    }
    if (path->attend_single) attention(*path, path->attend_single, "fp32");
    if (path->attend_half) attention(*path, path->attend_half, "bf16");
  }
}
