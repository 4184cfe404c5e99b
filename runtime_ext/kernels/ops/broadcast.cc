// Operations on two sets of planes of which one may be smaller and count for all of the other.
#include <algorithm>

#include "../ops.h"
#include "planes.h"

namespace onnxprune::kernels {
namespace {

// Consecutive numbers, or one in the place of as many.
struct Numbers {
  const float* data;
  bool one;
};

// Whole vectors of all instruction sets.
constexpr std::int64_t kPiece = 256;

// out[i] = act(number / row[i]), or act(row[i] / number): a product with the inverse would round twice.
void divide(const Epilogue& epilogue, Numbers a, Numbers b, float* out, const std::uint16_t* mask,
            std::int64_t count) {
  const OpsTable& ops = active();
  float same[kPiece];
  std::fill(same, same + std::min(kPiece, count), a.one ? *a.data : *b.data);
  for (std::int64_t i = 0; i < count; i += kPiece)
    ops.binary(Binary::divide, epilogue, a.one ? same : a.data + i, b.one ? same : b.data + i,
               out + i, mask == nullptr ? nullptr : mask + i / ops.width,
               std::min(kPiece, count - i));
}

void combine(Binary op, const Epilogue& epilogue, Numbers a, Numbers b, float* out,
             const std::uint16_t* mask, std::int64_t count) {
  const OpsTable& ops = active();
  if (!a.one && !b.one) return ops.binary(op, epilogue, a.data, b.data, out, mask, count);
  if (op == Binary::divide) return divide(epilogue, a, b, out, mask, count);
  const float* const row = a.one ? b.data : a.data;
  const float number = a.one ? *a.data : *b.data;
  float scale = 1.0f, shift = 0.0f;
  if (op == Binary::multiply) {
    scale = number;
  } else if (op == Binary::add || a.one) {
    shift = number;
    if (op == Binary::subtract) scale = -1.0f;
  } else {
    shift = -number;
  }
  ops.affine(epilogue, row, scale, shift, out, mask, count);
}

// How an operand lies against the result.
class Operand {
 public:
  Operand(const PlaneOperand& planes, const float* data, const PlaneLayout& out, std::int32_t channels)
      : l_(planes.layout),
        data_(data + planes.layout.lead),
        channel_(planes.channels == 1 && channels > 1 ? 0 : planes.layout.plane_stride),
        row_(planes.layout.height == 1 && out.height > 1 ? 0 : planes.layout.pitch),
        one_(planes.layout.width == 1 && out.width > 1) {}

  bool is_number(const PlaneLayout& out) const {
    return (row_ == 0 || out.height == 1) && (one_ || out.width == 1);
  }
  // Whether its planes are laid out as those of the result.
  bool covers(const PlaneLayout& out) const {
    return l_.height == out.height && l_.width == out.width && l_.pitch == out.pitch &&
           l_.lead == out.lead && l_.plane_stride == out.plane_stride;
  }
  const float* plane(std::int64_t c) const { return data_ + c * channel_; }
  Numbers row(std::int64_t c, std::int64_t y) const { return {plane(c) + y * row_, one_}; }
  // Of a vector of channels, from c on.
  Numbers channels(std::int64_t c) const { return {plane(c), channel_ == 0}; }

 private:
  const PlaneLayout& l_;
  const float* data_;
  std::int64_t channel_, row_;  // floats from one to the next, 0 = always the same
  bool one_;                    // number a row
};

}  // namespace

void broadcast_planes(Binary op, const PlaneLayout& layout, std::int32_t channels,
                      const PlaneOperand& a_planes, const float* a, const PlaneOperand& b_planes,
                      const float* b, float* out, const Epilogue& epilogue, std::int32_t first,
                      std::int32_t last) {
  const Operand left(a_planes, a, layout, channels), right(b_planes, b, layout, channels);
  if (layout.plane_stride == 1)  // a contiguous vector
    return combine(op, epilogue, left.channels(first), right.channels(first), out + first, nullptr, last - first);
  const bool left_whole = left.covers(layout), right_whole = right.covers(layout);
  if ((left_whole || left.is_number(layout)) && (right_whole || right.is_number(layout)) && (left_whole || right_whole)) {
    on_planes(layout, out, first, last,
              [&](std::int32_t c, std::int64_t at, std::int64_t count, const std::uint16_t* mask) {
                const std::int64_t inside = at - c * layout.plane_stride - layout.lead;
                combine(op, epilogue, {left.plane(c) + (left_whole ? inside : 0), !left_whole},
                        {right.plane(c) + (right_whole ? inside : 0), !right_whole}, out + at, mask, count);
              });
    return;
  }
  for (std::int32_t c = first; c < last; ++c) {
    float* const plane = out + c * layout.plane_stride;
    zero_around(layout, plane);
    for (std::int32_t y = 0; y < layout.height; ++y)
      combine(op, epilogue, left.row(c, y), right.row(c, y), plane + layout.lead + std::int64_t{y} * layout.pitch, nullptr,
              layout.width);
  }
}

}  // namespace onnxprune::kernels
