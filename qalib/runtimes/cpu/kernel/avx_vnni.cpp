// AVX-VNNI: int8 weights, activations of 8 bits.

#include "avx2.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx_vnni = kernel<VectorProduct<Int8Quads<Avx2>, 6, 2>>("avx_vnni");
