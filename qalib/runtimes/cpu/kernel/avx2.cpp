// AVX2 and FMA: float32, 6 tokens by 2 vectors of 8.

#include "avx2.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx2 = kernel<VectorProduct<Float32<Avx2>, 6, 2>>("avx2");
