// AVX-512 with bf16 in pairs, weights and activations.

#include "avx512.h"
#include "kernel.h"
#include "vector_product.h"

constexpr qalib::InstructionSet qalib::avx512_bf16 = kernel<VectorProduct<BFloat16Pairs, 14, 2>>("avx512_bf16");
