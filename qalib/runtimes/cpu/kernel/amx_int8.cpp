// AMX: int8 weights, activations of 8 bits, in tiles.

#include "avx512.h"
#include "kernel.h"
#include "tile_product.h"

constexpr qalib::InstructionSet qalib::amx_int8 = kernel<TileProduct<Int8Quads<Avx512>>>("amx_int8");
