#include "ep/instance_builder.h"

#include <algorithm>

namespace onnxprune::ep {

void InstanceBuilder::emit_quantised_sum(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const View& x = value(op.out).view;
  auto a = use(op.in[0], form), b = use(op.in[1], form), out = use(op.out, form);
  kernels::QuantisedSum sum;
  sum.a_factor = op.scale[0];
  sum.b_factor = op.scale[1];
  if (op.shift.empty()) {
    sum.step = op.scale[2];
  } else {
    sum.a_zero = op.shift[0];
    sum.b_zero = op.shift[1];
    sum.shift = op.shift[2];
    sum.zero = op.shift[3];
  }
  sum.low = op.epilogue.alpha;
  sum.high = op.epilogue.beta;
  const int64_t planes = x.images * x.channels;
  add(op.label, "quantised_sum", planes, moving(3 * planes * l.plane_stride),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::quantised_sum_planes(sum, l, f.at(*a), f.at(*b), f.at(*out), static_cast<int32_t>(first),
                                      static_cast<int32_t>(last));
      });
}

// Integers at the program's border, whose places are onnxruntime's own buffers.
void InstanceBuilder::emit_crossing(const Op& op) {
  constexpr int64_t kPiece = 4096;
  const bool enters = op.kind == OpKind::decode, has_sign = op.signs;
  auto in = use(op.in[0], kDense), out = use(op.out, kDense);
  const View& x = value(op.out).view;
  const int64_t numbers = x.images * x.channels * x.pixels();
  const float zero = op.shift[0];
  Step& step = add((enters ? "integers of " : "to integers of ") + op.label, enters ? "decode" : "encode",
                   (numbers + kPiece - 1) / kPiece, moving(2 * numbers),
                   [=](const Frame& f, int64_t first, int64_t last, void*) {
                     const int64_t begin = first * kPiece, count = std::min(numbers, last * kPiece) - begin;
                     if (enters) {
                       const auto* bytes = reinterpret_cast<const uint8_t*>(f.at(*in)) + begin;
                       kernels::decode(bytes, has_sign, zero, f.at(*out) + begin, count);
                     } else {
                       auto* bytes = reinterpret_cast<uint8_t*>(f.at(*out)) + begin;
                       kernels::encode(f.at(*in) + begin, zero, has_sign, bytes, count);
                     }
                   });
  step.units = {};  // a cost of the border
}

}  // namespace onnxprune::ep
