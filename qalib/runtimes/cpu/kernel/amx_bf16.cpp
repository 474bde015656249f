// AMX: bf16 weights and activations in tiles.

#include "avx512.h"
#include "kernel.h"
#include "tile_product.h"

constexpr qalib::InstructionSet qalib::amx_bf16 = kernel<TileProduct<BFloat16Pairs>>("amx_bf16");
