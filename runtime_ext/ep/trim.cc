#include "ep/trim.h"

#include <stdexcept>

#include "ep/dims.h"
#include "ep/shapes.h"

namespace onnxprune::ep {
namespace {

// Cuts the window of `op` down to what it needs over an image of this size; false when it needs all.
bool trim(const View& image, Op* op) {
  const kernels::ConvGeometry& g = op->geometry;
  const Window windows[2] = {{g.kernel_h, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom},
                             {g.kernel_w, g.stride_w, g.dilation_w, g.pad_left, g.pad_right}};
  const int64_t sizes[2] = {image.height, image.width};
  Window cut[2];
  LiveTaps live[2];
  for (int axis = 0; axis < 2; ++axis) {
    const Window& w = windows[axis];
    live[axis] = live_taps(w, sizes[axis]);
    cut[axis] = w;
    cut[axis].kernel = live[axis].count;
    cut[axis].pad_begin = w.pad_begin - live[axis].first * w.dilation;
    cut[axis].pad_end = w.pad_end - (w.kernel - live[axis].first - live[axis].count) * w.dilation;
    if (cut[axis].pad_begin < 0 || cut[axis].pad_end < 0) live[axis] = {0, w.kernel}, cut[axis] = w;
  }
  if (cut[0].kernel == g.kernel_h && cut[1].kernel == g.kernel_w) return false;
  kernels::ConvGeometry smaller = g;
  smaller.kernel_h = static_cast<int32_t>(cut[0].kernel);
  smaller.kernel_w = static_cast<int32_t>(cut[1].kernel);
  smaller.pad_top = static_cast<int32_t>(cut[0].pad_begin);
  smaller.pad_bottom = static_cast<int32_t>(cut[0].pad_end);
  smaller.pad_left = static_cast<int32_t>(cut[1].pad_begin);
  smaller.pad_right = static_cast<int32_t>(cut[1].pad_end);
  const auto first_h = static_cast<int32_t>(live[0].first), first_w = static_cast<int32_t>(live[1].first);

  static Shared<const kernels::Weights> held;
  Digest digest;
  if (op->digest.known())
    digest = Hasher().put(op->digest).put(first_h).put(first_w).put(smaller.kernel_h).put(smaller.kernel_w).put(smaller.pad_top)
                 .put(smaller.pad_left).put(smaller.pad_bottom).put(smaller.pad_right).digest();
  std::shared_ptr<const kernels::Weights> weights = held.find(digest);
  if (!weights) {
    const auto whole = op->weights ? op->weights : packed_weight(*op, false);
    kernels::WeightsPtr made;
    const kernels::Status status = kernels::crop_taps(*whole, smaller, first_h, first_w, &made);
    if (!status.ok()) throw std::runtime_error("onnxprune: '" + op->label + "': " + status.message);
    weights = held.keep(digest, std::move(made));
  }
  op->geometry = smaller;
  op->weights = std::move(weights);
  op->source.reset();
  op->digest = digest;
  return true;
}

}  // namespace

std::optional<Program> without_dead_taps(const Program& program, const std::vector<Shape>& inputs) {
  if (program.domain != Domain::image) return std::nullopt;
  const std::vector<Shape> shapes = infer_shapes(program, inputs);
  std::optional<Program> trimmed;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    if (op.kind != OpKind::conv || op.geometry.taps() == 1 || op.geometry.groups > 1) continue;
    Op smaller = op;
    if (!trim(view(program.domain, shapes[static_cast<size_t>(op.in[0])]), &smaller)) continue;
    if (!trimmed) trimmed = program;
    trimmed->ops[i] = std::move(smaller);
  }
  return trimmed;
}

}  // namespace onnxprune::ep
