// AVX-512: float32, 14 tokens by 2 vectors of 16.

#include "avx512.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx512 = kernel<VectorProduct<Float32<Avx512>, 14, 2>>("avx512");
