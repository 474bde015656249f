// AVX-512 VNNI: int8 weights, activations of 8 bits.

#include "avx512.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx512_vnni = kernel<VectorProduct<Int8Quads<Avx512>, 14, 2>>("avx512_vnni");
