#include "ep/broadcast.h"

#include <algorithm>

#include "ep/shapes.h"

namespace onnxprune::ep {

std::optional<Shape> broadcast(const Shape& a, const Shape& b) {
  if (a.size() != b.size() || a.size() < 2 || a.size() > 4 || a[0] != b[0]) return std::nullopt;
  Shape out = a;
  for (size_t i = 1; i < a.size(); ++i) {
    if (a[i] != b[i] && a[i] != 1 && b[i] != 1) return std::nullopt;
    if (a[i] == 1) out[i] = b[i];
  }
  return out;
}

std::optional<Program> with_sums_apart(const Program& program, const std::vector<Shape>& inputs) {
  if (program.domain != Domain::image) return std::nullopt;
  const std::vector<Shape> shapes = infer_shapes(program, inputs);
  const auto shape = [&](int value) -> const Shape& { return shapes[static_cast<size_t>(value)]; };
  const auto together = [&](const Op& op) {
    return op.residual < 0 || op.fit == Fit::same || (shape(op.residual) == shape(op.out) && shape(op.out) == conv_shape(program, op, shape(op.in[0])));
  };
  if (std::all_of(program.ops.begin(), program.ops.end(), together)) return std::nullopt;
  Program out = program;
  out.ops.clear();
  for (const Op& op : program.ops) {
    out.ops.push_back(op);
    if (together(op)) continue;
    Op& own = out.ops.back();
    Op sum;
    sum.kind = OpKind::binary;
    sum.label = op.label;
    sum.units = op.units;
    sum.fit = op.fit;
    own.out = out.value_count++;
    sum.in = {own.out, op.residual};
    sum.out = op.out;
    if (op.epilogue.residual == kernels::Residual::before_activation) {
      sum.epilogue = op.epilogue;
      own.epilogue = {};
    }
    own.residual = -1;
    own.epilogue.residual = sum.epilogue.residual = kernels::Residual::none;
    out.ops.push_back(std::move(sum));
  }
  return out;
}

}  // namespace onnxprune::ep
