// Which instruction sets this machine can run, and what is computed once for all of them when the library is loaded.
//
// Like `block_sparse.cpp`, and unlike the files of the instruction sets, this is compiled for any processor.

#include <cmath>
#include <cstdint>

#include "instruction_set.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qalib {

char* Workspace::piece(int number, size_t bytes) {
  std::vector<char>& piece = pieces_[number];
  if (piece.size() < bytes + 64) piece.resize(bytes + 64);
  return piece.data() + 63 - (reinterpret_cast<uintptr_t>(piece.data()) + 63) % 64;
}

// Through the values at Chebyshev's four nodes of each segment, [(i - 1/2) / PACE, (i + 1/2) / PACE].
Bump::Bump() {
  for (int i = 0; i < 32; i++) {
    double node[4], value[4], sum[4] = {};
    for (int k = 0; k < 4; k++) {
      node[k] = (i + 0.5 * std::cos((2 * k + 1) * std::acos(-1.0) / 8)) / BUMP_PACE;
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
const Bump bump;

#ifndef __x86_64__

const bool narrows = false;
std::vector<const InstructionSet*> available() { return {&portable}; }

#else

const bool narrows = __builtin_cpu_supports("avx512bf16");

namespace {

// Bit 4 of EAX in leaf 7.1: not every compiler that has the instructions can ask for them by name.
bool has_avx_vnni() {
#ifdef EMULATE_VNNI
  return true;
#endif
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

// Whether there are tiles for bf16 and int8, and Linux, which must be asked, lets this process use them.
bool has_amx() {
#ifdef EMULATE_TILES
  return __builtin_cpu_supports("avx512bf16");
#elif defined(__linux__)
  constexpr int PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned REQUIRED = 1u << 22 | 1u << 24 | 1u << 25;
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & REQUIRED) == REQUIRED &&
         syscall(SYS_arch_prctl, PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}

}  // namespace

std::vector<const InstructionSet*> available() {
  std::vector<const InstructionSet*> sets{&portable};
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return sets;
  sets.insert(sets.end(), {&avx2, &avx2_int8});
  if (has_avx_vnni()) sets.push_back(&avx_vnni);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return sets;
  sets.push_back(&avx512);
  // Intel's take two cycles for what AMD's do in one: there float32 multiplies bf16 activations faster.
  if (narrows) sets.insert(sets.end() - (__builtin_cpu_is("intel") ? 1 : 0), &avx512_bf16);
  if (__builtin_cpu_supports("avx512vnni")) sets.push_back(&avx512_vnni);
  if (has_amx()) sets.insert(sets.end(), {&amx_bf16, &amx_int8});
  return sets;
}

#endif

}  // namespace qalib
