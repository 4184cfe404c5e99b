#include "../simd/scalar.h"

#include "block.h"
#include "csr.h"

namespace onnxprune::kernels {

TileSet tiles_block4_scalar() { return tile_set<BlockTile4, 2>(4); }
TileSet tiles_csr_scalar() { return tile_set<CsrTile, 8>(1); }

}  // namespace onnxprune::kernels
