// Walking the pixels of planes as flat vectors, for what works on each of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../phases.h"
#include "../weights_impl.h"
#include "table.h"

namespace onnxprune::kernels {

inline const OpsTable& active() { return ops_table(active_isa()); }

// The flat pixel vector of a stored phase: offset in the plane, floats (whole vectors where there is a mask).
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

// The pixels of each plane of a layout: body(channel, offset, floats (whole vectors where there is a mask), mask or
// null).
class Planes {
 public:
  explicit Planes(const PlaneLayout& layout) : l_(layout) {
    if (is_vector()) return;
    try {
      pieces_ = flat_pieces(l_, active().width);
    } catch (...) {  // no memory for masks: row by row, which needs none
      pieces_.clear();
      by_rows_ = true;
    }
  }

  template <class Body>
  void pixels(std::int32_t c, Body&& body) const {
    const std::uint16_t* const whole = nullptr;
    const std::int64_t plane = c * l_.plane_stride;
    if (is_vector()) return body(c, plane, std::int64_t{1}, whole);
    for (const FlatPiece& piece : pieces_)
      if (piece.count > 0)
        body(c, plane + piece.begin, piece.count, piece.mask.empty() ? whole : piece.mask.data());
    if (!by_rows_) return;
    for_each_phase(l_, [&](const Phase& phase) {
      for (std::int64_t y = 0; y < phase.rows; ++y)
        body(c, plane + phase.base + y * l_.pitch, std::int64_t{phase.cols}, whole);
    });
  }

  // The same for a body that writes them to `out`: zeroes what lies around.
  template <class Body>
  void write(float* out, std::int32_t c, Body&& body) const {
    float* const plane = out + c * l_.plane_stride;
    if (by_rows_) {
      zero_around(l_, plane);
    } else if (!is_vector()) {
      std::int64_t written = 0;
      for (const FlatPiece& piece : pieces_) {
        std::fill(plane + written, plane + piece.begin, 0.0f);
        written = piece.begin + piece.count;
      }
      std::fill(plane + written, plane + l_.plane_stride, 0.0f);
    }
    pixels(c, body);
  }

 private:
  bool is_vector() const { return l_.plane_stride == 1; }  // contiguous: channels are the elements

  const PlaneLayout& l_;
  std::vector<FlatPiece> pieces_;
  bool by_rows_ = false;
};

template <class Body>
void on_planes(const PlaneLayout& l, float* out, std::int32_t first, std::int32_t last,
               Body&& body) {
  const Planes planes(l);
  for (std::int32_t c = first; c < last; ++c) planes.write(out, c, body);
}

}  // namespace onnxprune::kernels
