// Convolutions of 3 x 3 taps at stride 1 with weights of the moment, and their derivatives, by Winograd's
// minimal filtering (ops/winograd.h): 16 products a tile of 2 x 2 outputs instead of 36. Tensors as in
// dense.h; every sum is taken in an order that depends on the sizes alone.
//
// Narrow images lie side by side in one long row of tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"
#include "../ops/table.h"
#include "axis.h"

namespace onnxprune::kernels {

class DenseTiles {
 public:
  // Whether that is possible and pays. The sizes must have passed Dense::check.
  static bool fits(const ConvGeometry& geometry, std::int64_t height, std::int64_t width);
  DenseTiles(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
             std::int64_t width);

  // As in Dense; bands are of images side by side.
  std::int64_t blocks() const;
  std::int64_t packed_floats() const;
  void pack(const float* w, bool turned, float* packed, std::int64_t first, std::int64_t last) const;
  std::int64_t bands() const { return groups() * strips(); }
  void run(const float* x, const float* packed, const float* bias, float* y, std::int64_t first,
           std::int64_t last) const;

  // Whether the derivative by w pays, too: its sums at all points should stay in the second cache.
  bool slopes_fit() const;
  // It, from what Dense::turn_out makes of the derivative by y: sums of each piece of the
  // bands, `slope_floats` each, then input channels first .. last - 1 from all of these.
  std::int64_t pieces() const;
  std::int64_t slope_floats() const;
  void slopes(const float* x, const float* g, float* sums, std::int64_t first, std::int64_t last) const;
  void weight_gradient(const float* sums, float* dw, std::int64_t first, std::int64_t last) const;

 private:
  // Images and tile rows.
  struct Band {
    std::int64_t image = 0, images = 0, row = 0, rows = 0;
  };

  std::int64_t groups() const { return (images_ + side_ - 1) / side_; }
  std::int64_t strips() const { return (tile_rows_ + strip_ - 1) / strip_; }
  Band band(std::int64_t index) const;
  std::int64_t lines() const;
  std::int64_t stride() const;
  std::int64_t point_floats() const { return in_channels_ * stride(); }
  void transform(const float* x, const Band& band, float* plane, float* points) const;
  std::int64_t plane_floats() const { return (2 * strip_ + 2) * pitch_; }

  const OpsTable& ops_;
  std::int64_t images_, in_channels_, out_channels_;
  WindowAxis rows_, columns_;
  std::int64_t tile_rows_, across_;  // of an image
  std::int64_t side_ = 1;            // images side by side
  std::int64_t step_ = 0;            // columns from image to image
  std::int64_t tiles_ = 0;           // of a row of tiles, with those between images and behind the last
  std::int64_t pitch_ = 0;           // columns that the tiles of a row read
  std::int64_t strip_ = 1;           // most tile rows of a band
};

}  // namespace onnxprune::kernels
