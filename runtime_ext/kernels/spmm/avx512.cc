#include "../simd/avx512.h"

#include "block.h"
#include "csr.h"
#include "rows4.h"

namespace {

template <int P, class Offsets>
using BlockTile4Half = BlockTile<4, P, Offsets, Simd::Half>;

}  // namespace

namespace onnxprune::kernels {

// 32 registers: 8 x 3 or 4 x 6 sums leave room for the inputs and one broadcast weight.
TileSet tiles_block8_avx512() { return tile_set<BlockTile8, 3>(8); }
TileSet tiles_block4_avx512() { return tile_set<BlockTile4, BlockTile4Half, 6>(4); }
TileSet tiles_rows4_avx512() { return tile_set<Rows4Tile, 6>(4); }
TileSet tiles_csr_avx512() { return tile_set<CsrTile, 8>(1); }

}  // namespace onnxprune::kernels
