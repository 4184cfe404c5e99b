#include "../simd/avx2.h"

#include "block.h"
#include "csr.h"
#include "rows4.h"

namespace onnxprune::kernels {

// 16 registers: 4 x 3 sums, 3 inputs, 1 weight.
TileSet tiles_block4_avx2() { return tile_set<BlockTile4, 3>(4); }
TileSet tiles_rows4_avx2() { return tile_set<Rows4Tile, 3>(4); }
TileSet tiles_csr_avx2() { return tile_set<CsrTile, 12>(1); }

}  // namespace onnxprune::kernels
