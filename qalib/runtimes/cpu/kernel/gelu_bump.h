// x Phi(x) is max(x, 0) - |x| Phi(-|x|). What is subtracted is a bump that ends near TOP: here as a cubic polynomial of |x|
// on each of 32 segments (error below 1e-6). Computed when the library is loaded, so not for an instruction set.

#pragma once

#include <cmath>

namespace {

struct Bump {
  static constexpr float TOP = 5.75f, PACE = 31 / TOP;
  alignas(64) float terms[4][32];
  // Through the values at Chebyshev's four nodes of each segment, [(i - 1/2) / PACE, (i + 1/2) / PACE].
  Bump() {
    for (int i = 0; i < 32; i++) {
      double node[4], value[4], sum[4] = {};
      for (int k = 0; k < 4; k++) {
        node[k] = (i + 0.5 * std::cos((2 * k + 1) * std::acos(-1.0) / 8)) / PACE;
        value[k] = node[k] * std::erfc(node[k] / std::sqrt(2.0)) / 2;
      }
      for (int order = 1; order < 4; order++)  // divided differences
        for (int k = 3; k >= order; k--) value[k] = (value[k] - value[k - 1]) / (node[k] - node[k - order]);
      for (int k = 3; k >= 0; k--) {  // to powers: sum = sum * (t - node) + value
        for (int power = 3; power > 0; power--) sum[power] = sum[power - 1] - sum[power] * node[k];
        sum[0] = value[k] - sum[0] * node[k];
      }
      for (int power = 0; power < 4; power++) terms[power][i] = float(sum[power]);
    }
  }
};
const Bump bump;

}  // namespace
