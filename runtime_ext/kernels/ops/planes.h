// Walking planes of pixels with the vector primitives: what one function after another is applied to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../phases.h"
#include "../weights_impl.h"
#include "table.h"

namespace onnxprune::kernels {

inline const OpsTable& active() { return ops_table(active_isa()); }

// Calls body(offset of the flat vector in the plane, floats (whole vectors), mask or null) for
// every stored phase; zeroes what lies outside the flat vectors.
struct FlatPiece {
  std::int64_t begin = 0, count = 0;
  std::vector<std::uint16_t> mask;
};
inline std::vector<FlatPiece> flat_pieces(const PlaneLayout& l, int width) {
  std::vector<FlatPiece> pieces;
  for_each_phase(l, [&](const Phase& phase) {
    FlatPiece piece;
    piece.begin = phase.base;
    const std::int64_t pixels = flat_pixels(phase.rows, phase.cols, l.pitch);
    piece.mask = pixel_mask(phase.rows, phase.cols, l.pitch, width);
    piece.count = piece.mask.empty() ? pixels : (pixels + width - 1) / width * width;
    pieces.push_back(std::move(piece));
  });
  return pieces;
}

template <class Body>
void on_rows(const PlaneLayout& l, float* out, std::int32_t first, std::int32_t last, Body& body) {
  const std::uint16_t* const whole = nullptr;
  for (std::int32_t c = first; c < last; ++c) {
    zero_around(l, out + c * l.plane_stride);
    for_each_phase(l, [&](const Phase& phase) {
      for (std::int64_t y = 0; y < phase.rows; ++y) {
        body(c, c * l.plane_stride + phase.base + y * l.pitch, std::int64_t{phase.cols}, whole);
      }
    });
  }
}

template <class Body>
void on_planes(const PlaneLayout& l, float* out, std::int32_t first, std::int32_t last,
               Body&& body) {
  if (l.plane_stride == 1) {  // a contiguous vector: channels are the elements
    for (std::int32_t c = first; c < last; ++c)
      body(c, std::int64_t{c}, std::int64_t{1}, static_cast<const std::uint16_t*>(nullptr));
    return;
  }
  std::vector<FlatPiece> pieces;
  try {
    pieces = flat_pieces(l, active().width);
  } catch (...) {  // no memory for masks: row by row, which needs none
    on_rows(l, out, first, last, body);
    return;
  }
  for (std::int32_t c = first; c < last; ++c) {
    const std::int64_t plane = c * l.plane_stride;
    std::int64_t written = 0;
    for (const FlatPiece& piece : pieces) {
      std::fill(out + plane + written, out + plane + piece.begin, 0.0f);
      if (piece.count > 0) {
        body(c, plane + piece.begin, piece.count, piece.mask.empty() ? nullptr : piece.mask.data());
      }
      written = piece.begin + piece.count;
    }
    std::fill(out + plane + written, out + plane + l.plane_stride, 0.0f);
  }
}

}  // namespace onnxprune::kernels
