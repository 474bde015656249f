// AVX2: int8 weights, activations of 16 bits.

#include "avx2.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx2_int8 = kernel<VectorProduct<Int8Words, 6, 2>>("avx2_int8");
