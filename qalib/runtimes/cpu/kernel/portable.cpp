// For any processor: float32 in vectors of 16 bytes, panels of 6 tokens with Arm's 32 registers, else of 2.

#include "kernel.h"
#include "numbers.h"
#include "vector_product.h"

namespace qalib {
namespace {

#ifdef __aarch64__
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

struct Portable : Vectors<Portable, 16> {
  static constexpr int BESIDE = REGISTERS == 32 ? 4 : 2;
  INLINE static wholes widen(halves value) { return __builtin_convertvector(value, wholes); }
  INLINE static halves lower(wholes value) { return __builtin_convertvector(value, halves); }
};

}  // namespace

constexpr InstructionSet portable = kernel<VectorProduct<Float32<Portable>, REGISTERS == 32 ? 6 : 2, 4>>("portable");

}  // namespace qalib
