#include "ep/fuse.h"

#include <algorithm>
#include <cmath>

namespace onnxprune::ep {
namespace {

using kernels::Activation;
using kernels::Residual;

struct Uses {
  std::vector<int> count;     // reads by ops, plus one per program output
  std::vector<int> producer;  // op index, -1 for program inputs

  explicit Uses(const Program& program)
      : count(static_cast<size_t>(program.value_count), 0),
        producer(static_cast<size_t>(program.value_count), -1) {
    for (size_t i = 0; i < program.ops.size(); ++i) {
      const Op& op = program.ops[i];
      for (int v : op.in) ++count[static_cast<size_t>(v)];
      if (op.residual >= 0) ++count[static_cast<size_t>(op.residual)];
      producer[static_cast<size_t>(op.out)] = static_cast<int>(i);
    }
    for (int v : program.outputs) ++count[static_cast<size_t>(v)];
  }
  // The only op that makes `value`, if nobody else reads it; -1 otherwise.
  int private_producer(int value) const {
    return count[static_cast<size_t>(value)] == 1 ? producer[static_cast<size_t>(value)] : -1;
  }
};

bool finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

float at(const std::vector<float>& values, size_t i, float fallback) {
  return values.empty() ? fallback : values.size() == 1 ? values[0] : values[i];
}

bool fold_affine(Op* conv, const Op& affine) {
  if (conv->epilogue.activation != Activation::none || conv->residual >= 0 || !conv->scale.empty()) return false;
  if (!finite(affine.scale) || !finite(affine.shift)) return false;
  auto source = std::make_shared<WeightSource>(*conv->source);
  const size_t rows = static_cast<size_t>(conv->geometry.out_channels);
  std::vector<float> scale(rows), bias(rows);
  for (size_t r = 0; r < rows; ++r) {
    float s = at(affine.scale, r, 1.0f);
    scale[r] = at(source->row_scale, r, 1.0f) * s;
    bias[r] = at(source->bias, r, 0.0f) * s + at(affine.shift, r, 0.0f);
  }
  if (!affine.scale.empty() || !source->row_scale.empty()) source->row_scale = std::move(scale);
  source->bias = std::move(bias);
  conv->source = std::move(source);
  conv->weights.reset();  // packed without the new factors
  conv->epilogue = affine.epilogue;
  return true;
}

// Makes an affine op part of gain and shift of the normalisation before it.
bool scale_gain(Op* norm, const Op& affine) {
  if (norm->epilogue.activation != Activation::none) return false;
  const size_t channels = static_cast<size_t>(norm->geometry.in_channels);
  std::vector<float> scale(channels), shift(channels);
  for (size_t c = 0; c < channels; ++c) {
    const float s = at(affine.scale, c, 1.0f);
    scale[c] = at(norm->scale, c, 1.0f) * s;
    shift[c] = at(norm->shift, c, 0.0f) * s + at(affine.shift, c, 0.0f);
  }
  if (!finite(scale) || !finite(shift)) return false;
  norm->scale = std::move(scale);
  norm->shift = std::move(shift);
  norm->epilogue = affine.epilogue;
  return true;
}

// The numbers of an affine op on interleaved channels, for the channels before.
Op phase_by_phase(const Op& affine, const Op& moved) {
  Op out = affine;
  const size_t phases = moved.channels.size() / static_cast<size_t>(moved.geometry.out_channels);
  for (auto list : {&Op::scale, &Op::shift}) {
    if ((affine.*list).size() < 2) continue;
    (out.*list).resize(moved.channels.size());
    for (size_t k = 0; k < moved.channels.size(); ++k)
      (out.*list)[static_cast<size_t>(moved.channels[k])] = (affine.*list)[k / phases];
  }
  return out;
}

// Makes `op` part of what `into` stands for, whose result is then its own.
void take_over(Op* into, const Op& op) {
  into->out = op.out;
  into->label += " + " + op.label;
  into->nodes.insert(into->nodes.end(), op.nodes.begin(), op.nodes.end());
  into->units.insert(into->units.end(), op.units.begin(), op.units.end());
}

// Absorbs ops[i] into the op before it, if that can be.
class Absorber {
 public:
  explicit Absorber(Program* program) : program_(*program), ops_(program->ops), uses_(*program) {}

  // True when ops[i] is gone (its producer took its place).
  bool absorb(size_t i) {
    const Op& op = ops_[i];
    if (!op.slope.empty()) return false;
    switch (op.kind) {
      case OpKind::affine:
      case OpKind::pointwise: {
        const int before = uses_.private_producer(op.in[0]);
        if (before < 0) return false;
        return at_place(before).kind == OpKind::interleave ? behind_mover(i, before) : elementwise(i, before);
      }
      case OpKind::reshape:
        return !op.target.empty() && reshape(i, uses_.private_producer(op.in[0]));
      case OpKind::binary:
        return op.binary == kernels::Binary::add && op.fit != Fit::different && op.in[0] != op.in[1] &&
               op.epilogue.activation == Activation::none && addition(i);
      default:
        return false;
    }
  }

 private:
  Op& at_place(int place) { return ops_[static_cast<size_t>(place)]; }

  bool replace(size_t i, int producer, Op merged) {
    take_over(&merged, ops_[i]);
    ops_[i] = std::move(merged);
    ops_.erase(ops_.begin() + producer);
    uses_ = Uses(program_);
    return true;
  }

  // What works on every number by itself may as well come before they are moved to their places.
  bool behind_mover(size_t i, int mover) {
    const Op& op = ops_[i];
    const int maker = uses_.private_producer(at_place(mover).in[0]);
    if (maker < 0 || at_place(maker).kind != OpKind::conv) return false;
    Op sums = at_place(maker);
    if (sums.epilogue.activation != Activation::none || sums.residual >= 0) return false;
    if (op.kind == OpKind::pointwise) {
      sums.epilogue = op.epilogue;
    } else if (!fold_affine(&sums, phase_by_phase(op, at_place(mover)))) {
      return false;
    }
    at_place(maker) = std::move(sums);
    return replace(i, mover, at_place(mover));
  }

  bool elementwise(size_t i, int before) {
    const Op& op = ops_[i];
    Op merged = at_place(before);
    if (op.kind == OpKind::affine) {
      const bool folds = merged.kind == OpKind::conv ? fold_affine(&merged, op)
                                                     : merged.kind == OpKind::group_norm && scale_gain(&merged, op);
      return folds && replace(i, before, std::move(merged));
    }
    const bool takes = merged.kind == OpKind::conv || merged.kind == OpKind::binary || merged.kind == OpKind::affine ||
                       merged.kind == OpKind::group_norm;
    const Residual residual = merged.epilogue.residual;
    if (!takes || merged.epilogue.activation != Activation::none || residual == Residual::after_activation) return false;
    merged.epilogue = op.epilogue;
    merged.epilogue.residual = residual;
    return replace(i, before, std::move(merged));
  }

  bool reshape(size_t i, int before) {
    // What is not planes of features has its own idea of a shape.
    const auto keeps = [](OpKind kind) { return kind == OpKind::concat || kind == OpKind::spread || kind == OpKind::sums; };
    if (before < 0 || keeps(at_place(before).kind)) return false;
    Op merged = at_place(before);
    if (merged.residual >= 0) return false;  // its shape was checked against the residual's
    merged.target = ops_[i].target;
    return replace(i, before, std::move(merged));
  }

  bool addition(size_t i) {
    const Op& op = ops_[i];
    // Of two candidates the later one: the other operand is then certainly ready.
    const int left = uses_.private_producer(op.in[0]), right = uses_.private_producer(op.in[1]);
    const auto fits = [&](int p) {
      return p >= 0 && at_place(p).kind == OpKind::conv && at_place(p).residual < 0 && at_place(p).scale.empty();
    };
    const int pick = fits(left) && (!fits(right) || left > right) ? 0 : fits(right) ? 1 : -1;
    if (pick < 0) return false;
    const int before = pick == 0 ? left : right;
    Op merged = at_place(before);
    merged.residual = op.in[static_cast<size_t>(1 - pick)];
    merged.fit = op.fit;
    merged.epilogue.residual = merged.epilogue.activation == Activation::none ? Residual::before_activation
                                                                              : Residual::after_activation;
    return replace(i, before, std::move(merged));
  }

  const Program& program_;
  std::vector<Op>& ops_;
  Uses uses_;
};

// Whether the op reads one pixel in so many of its input, and none between: strides to be taken over.
bool reads_every_nth(const Op& op) {
  const kernels::ConvGeometry& g = op.geometry;
  return op.kind == OpKind::conv && g.taps() == 1 && g.stride_h * g.stride_w > 1 &&
         g.pad_top + g.pad_left + g.pad_bottom + g.pad_right == 0;
}

// The op that leaves out what the strides skip.
Op subsampling(const Op& of, int value, int out, int32_t stride_h, int32_t stride_w) {
  Op op;
  op.kind = OpKind::pool;
  op.label = "what is read for " + of.label;
  op.units = of.units;
  op.in = {value};
  op.out = out;
  op.maximum = true;
  kernels::ConvGeometry& g = op.geometry;
  g.in_channels = g.out_channels = g.groups = of.geometry.out_channels;
  g.stride_h = stride_h;
  g.stride_w = stride_w;
  return op;
}

}  // namespace

void fuse(Program* program) {
  Absorber absorber(program);
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < program->ops.size();) {
      if (absorber.absorb(i)) {
        changed = true;
      } else {
        ++i;
      }
    }
  }
}

void skip_unread(Program* program) {
  if (program->domain != Domain::image) return;
  for (size_t i = program->ops.size(); i-- > 0;) {
    Op& maker = program->ops[i];
    // Sizes that do not fit may look as if they did once pixels are left out.
    if (maker.kind != OpKind::conv || !maker.target.empty() || (maker.residual >= 0 && maker.fit != Fit::same) ||
        std::find(program->outputs.begin(), program->outputs.end(), maker.out) != program->outputs.end())
      continue;
    std::vector<Op*> readers;
    bool skipping = true;
    for (size_t k = i + 1; k < program->ops.size() && skipping; ++k) {
      Op& op = program->ops[k];
      const bool reads = std::find(op.in.begin(), op.in.end(), maker.out) != op.in.end();
      if (!reads && op.residual != maker.out) continue;
      skipping = reads && op.residual != maker.out && reads_every_nth(op) &&
                 (readers.empty() || (op.geometry.stride_h == readers[0]->geometry.stride_h &&
                                      op.geometry.stride_w == readers[0]->geometry.stride_w));
      readers.push_back(&op);
    }
    if (!skipping || readers.empty()) continue;
    const int32_t stride_h = readers[0]->geometry.stride_h, stride_w = readers[0]->geometry.stride_w;
    for (Op* op : readers) {
      op->geometry.stride_h = op->geometry.stride_w = 1;
      op->weights.reset();  // packed for other strides
    }
    maker.geometry.stride_h *= stride_h;
    maker.geometry.stride_w *= stride_w;
    maker.weights.reset();
    if (maker.residual < 0) continue;
    const int value = maker.residual;
    maker.residual = program->value_count++;
    program->ops.insert(program->ops.begin() + static_cast<std::ptrdiff_t>(i),
                        subsampling(maker, value, maker.residual, stride_h, stride_w));
  }
}

}  // namespace onnxprune::ep
