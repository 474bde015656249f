// The kernel of an instruction set: what a file of `instruction_set.h`'s list defines, from a product of panels and strips.

#pragma once

#include "attention.h"
#include "layer.h"

namespace qalib {
namespace {

template <class P>
constexpr InstructionSet kernel(const char* name) {
  using N = Narrow<P>;
  InstructionSet set{name, {P::WIDE * P::LANES, P::LANES}, P::ROWS, P::WHOLE, P::NARROW ? N::ACROSS : 0,
                     P::NARROW ? N::CHUNK : 0, P::STEP, 4 / P::STEP, P::GATHERS, P::STORED, P::peak,
                     nullptr, Layer<P>::template tile<uint16_t>, nullptr, nullptr};
  if constexpr (P::STORED != Stored::half) set.single = Layer<P>::template tile<float>;
  if constexpr (P::STORED == Stored::single) set.attend_single = Attention<P>::template attend<float>;
  if constexpr (P::STORED != Stored::int8) set.attend_half = Attention<P>::template attend<uint16_t>;
  return set;
}

}  // namespace
}  // namespace qalib
