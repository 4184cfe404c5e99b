#include "ep/program.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "abi/types.h"
#include "ep/broadcast.h"
#include "ep/packed.h"
#include "ep/recurrent.h"

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

// Tries to absorb ops[i] into the op before it. True when ops[i] is gone (its producer took its place).
bool absorb(Program* program, const Uses& uses, size_t i) {
  Op& op = program->ops[i];
  auto replace = [&](int producer, Op merged) {
    merged.out = op.out;
    merged.label += " + " + op.label;
    merged.nodes.insert(merged.nodes.end(), op.nodes.begin(), op.nodes.end());
    merged.units.insert(merged.units.end(), op.units.begin(), op.units.end());
    program->ops[i] = std::move(merged);
    program->ops.erase(program->ops.begin() + producer);
    return true;
  };
  if (!op.slope.empty()) return false;
  if (op.kind == OpKind::affine || op.kind == OpKind::pointwise) {
    // What works on every number by itself may as well come before they are moved to their places.
    const int mover = uses.private_producer(op.in[0]);
    if (mover >= 0 && program->ops[static_cast<size_t>(mover)].kind == OpKind::interleave) {
      const int maker = uses.private_producer(program->ops[static_cast<size_t>(mover)].in[0]);
      if (maker < 0 || program->ops[static_cast<size_t>(maker)].kind != OpKind::conv) return false;
      Op sums = program->ops[static_cast<size_t>(maker)], moved = program->ops[static_cast<size_t>(mover)];
      if (sums.epilogue.activation != Activation::none || sums.residual >= 0) return false;
      if (op.kind == OpKind::pointwise) {
        sums.epilogue = op.epilogue;
      } else if (!fold_affine(&sums, phase_by_phase(op, moved))) {
        return false;
      }
      moved.label += " + " + op.label;
      moved.nodes.insert(moved.nodes.end(), op.nodes.begin(), op.nodes.end());
      moved.units.insert(moved.units.end(), op.units.begin(), op.units.end());
      moved.out = op.out;
      program->ops[static_cast<size_t>(maker)] = std::move(sums);
      program->ops[i] = std::move(moved);
      program->ops.erase(program->ops.begin() + mover);
      return true;
    }
    int before = uses.private_producer(op.in[0]);
    if (before < 0) return false;
    Op merged = program->ops[static_cast<size_t>(before)];
    if (op.kind == OpKind::affine) {
      const bool folds = merged.kind == OpKind::conv ? fold_affine(&merged, op)
                                                     : merged.kind == OpKind::group_norm && scale_gain(&merged, op);
      return folds && replace(before, std::move(merged));
    }
    bool takes = merged.kind == OpKind::conv || merged.kind == OpKind::binary || merged.kind == OpKind::affine ||
                 merged.kind == OpKind::group_norm;
    if (!takes || merged.epilogue.activation != Activation::none ||
        merged.epilogue.residual == Residual::after_activation)
      return false;
    Residual residual = merged.epilogue.residual;
    merged.epilogue = op.epilogue;
    merged.epilogue.residual = residual;
    return replace(before, std::move(merged));
  }
  if (op.kind == OpKind::reshape && !op.target.empty()) {
    int before = uses.private_producer(op.in[0]);
    // What is not planes of features has its own idea of a shape.
    const auto keeps = [](OpKind kind) { return kind == OpKind::concat || kind == OpKind::spread || kind == OpKind::sums; };
    if (before < 0 || keeps(program->ops[static_cast<size_t>(before)].kind)) return false;
    Op merged = program->ops[static_cast<size_t>(before)];
    if (merged.residual >= 0) return false;  // its shape was checked against the residual's
    merged.target = op.target;
    return replace(before, std::move(merged));
  }
  if (op.kind == OpKind::binary && op.binary == kernels::Binary::add && op.fit != Fit::different && op.in[0] != op.in[1] &&
      op.epilogue.activation == Activation::none) {
    // Of two candidates the later one: the other operand is then certainly ready.
    int left = uses.private_producer(op.in[0]), right = uses.private_producer(op.in[1]);
    auto fits = [&](int p) {
      return p >= 0 && program->ops[static_cast<size_t>(p)].kind == OpKind::conv &&
             program->ops[static_cast<size_t>(p)].residual < 0 && program->ops[static_cast<size_t>(p)].scale.empty();
    };
    int pick = fits(left) && (!fits(right) || left > right) ? 0 : fits(right) ? 1 : -1;
    if (pick < 0) return false;
    int before = pick == 0 ? left : right;
    Op merged = program->ops[static_cast<size_t>(before)];
    merged.residual = op.in[static_cast<size_t>(1 - pick)];
    merged.fit = op.fit;
    merged.epilogue.residual = merged.epilogue.activation == Activation::none ? Residual::before_activation
                                                                              : Residual::after_activation;
    return replace(before, std::move(merged));
  }
  return false;
}

[[noreturn]] void misfit(const Op& op, const std::string& what) {
  throw std::invalid_argument("onnxprune: '" + op.label + "': " + what);
}

// Of operands added to each other and the like.
Shape pair_shape(const Program& program, const Op& op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  const auto both = program.domain == Domain::image && op.fit != Fit::same ? broadcast(a, b) : std::nullopt;
  if (!both) misfit(op, "operands of shapes " + to_string(a) + " and " + to_string(b));
  return *both;
}

}  // namespace

Shape conv_shape(const Program& program, const Op& op, const Shape& in) {
  const kernels::ConvGeometry& g = op.geometry;
  Shape out = in;
  size_t axis = program.domain == Domain::image ? 1 : in.size() - (program.domain == Domain::tokens ? 1 : 2);
  if (in.size() < 2) misfit(op, "input of rank " + std::to_string(in.size()));
  if (in[axis] != g.in_channels)
    misfit(op, "input has " + std::to_string(in[axis]) + " channels, the weight expects " +
                   std::to_string(g.in_channels));
  out[axis] = op.kind == OpKind::conv ? g.out_channels : g.in_channels;
  if (program.domain != Domain::image || in.size() == 2) return out;
  if (in.size() > 4) misfit(op, "input of rank " + std::to_string(in.size()));
  View v = view(program.domain, in);
  int64_t height = g.out_height(static_cast<int32_t>(v.height)), width = g.out_width(static_cast<int32_t>(v.width));
  if (height <= 0 || width <= 0)
    misfit(op, "the window does not fit into an input of shape " + to_string(in));
  out.back() = width;
  if (in.size() == 4) out[2] = height;
  return out;
}

namespace {

// `target` with its -1 filled in.
Shape reshaped(const Op& op, const Shape& in) {
  if (op.target.empty()) return in;
  int64_t count = 1, known = 1;
  for (int64_t d : in) count *= d;
  for (int64_t d : op.target) known *= d < 0 ? 1 : d;
  Shape out = op.target;
  for (int64_t& d : out)
    if (d < 0) d = known == 0 ? 0 : count / known;
  int64_t total = 1;
  for (int64_t d : out) total *= d;
  if (total != count || in.empty() || out.empty() || in.back() != out.back())
    misfit(op, "cannot reshape " + to_string(in) + " to " + to_string(op.target));
  return out;
}

Shape op_shape(const Program& program, const Op& op, const std::vector<Shape>& shapes) {
  auto in = [&](size_t i) -> const Shape& { return shapes[static_cast<size_t>(op.in[i])]; };
  switch (op.kind) {
    case OpKind::conv: {
      Shape out = reshaped(op, conv_shape(program, op, in(0)));
      return op.residual < 0 ? out : pair_shape(program, op, out, shapes[static_cast<size_t>(op.residual)]);
    }
    case OpKind::pool:
      return conv_shape(program, op, in(0));
    case OpKind::global_pool: {
      Shape out = in(0);
      for (size_t i = 2; i < out.size(); ++i) out[i] = 1;
      if (!op.target.empty() && out.size() > 2) out.resize(2);
      return reshaped(op, out);
    }
    case OpKind::pointwise:
    case OpKind::affine: {
      const View x = view(program.domain, in(0));
      for (const auto* list : {&op.scale, &op.shift, &op.slope})
        if (list->size() > 1 && static_cast<int64_t>(list->size()) != x.channels)
          misfit(op, "an input of shape " + to_string(in(0)));
      return reshaped(op, in(0));
    }
    case OpKind::resize: {
      Shape out = in(0);
      if (out.size() < 3 || out.size() > 4) misfit(op, "input of rank " + std::to_string(out.size()));
      for (size_t i = 2; i < out.size(); ++i) {
        if (out[i] < 1) misfit(op, "an empty image");
        const ResizeSpec::Axis& axis = op.resize->axes[i + 2 - out.size()];
        if (axis.size == 0 && (in(1).size() != out.size() || in(1)[i] < 1)) misfit(op, "resized to " + to_string(in(1)));
        out[i] = axis.size == 0 ? in(1)[i] : resized(axis, out[i]);
      }
      return reshaped(op, out);
    }
    case OpKind::pick: {
      Shape out = in(0);
      if (out.size() < 2 || program.domain == Domain::left) misfit(op, "input of rank " + std::to_string(out.size()));
      int64_t& channels = program.domain == Domain::image ? out[1] : out.back();
      for (int32_t c : op.channels)
        if (c < 0 || c >= channels) misfit(op, "picks a channel that an input of shape " + to_string(in(0)) + " lacks");
      channels = static_cast<int64_t>(op.channels.size());
      return reshaped(op, out);
    }
    case OpKind::interleave: {
      const kernels::ConvGeometry& g = op.geometry;
      Shape out = in(0);
      if (out.size() < 3 || out.size() > 4 || out[1] != g.in_channels || op.channels.size() != static_cast<size_t>(g.in_channels))
        misfit(op, "an input of shape " + to_string(in(0)));
      out[1] = g.out_channels;
      out.back() = out.back() * g.stride_w - g.pad_left - g.pad_right;
      if (out.size() == 4) out[2] = out[2] * g.stride_h - g.pad_top - g.pad_bottom;
      if (out.back() < 1 || out[2] < 1) misfit(op, "an empty result");
      return reshaped(op, out);
    }
    case OpKind::response_norm:
      if (in(0).size() != 4) misfit(op, "input of rank " + std::to_string(in(0).size()));
      return in(0);
    case OpKind::group_norm:
      if (in(0).size() < 3 || in(0).size() > 4 || in(0)[1] != op.geometry.in_channels)
        misfit(op, "an input of shape " + to_string(in(0)));
      return in(0);
    case OpKind::norm: {
      for (size_t i = 1; i < op.in.size(); ++i)
        if (in(i) != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(i)));
      for (const auto* list : {&op.scale, &op.shift, &op.bias})
        if (in(0).size() < 2 || (!list->empty() && in(0).back() != static_cast<int64_t>(list->size())))
          misfit(op, "an input of shape " + to_string(in(0)));
      return reshaped(op, in(0));
    }
    case OpKind::attention: {
      const AttentionSpec& spec = *op.attention;
      attention_arguments(spec, in(0), in(1), in(2), op.in.size() > 3 ? &in(3) : nullptr);
      Shape out = in(0);
      out.back() = static_cast<int64_t>(spec.value_dim) * spec.heads();
      return reshaped(op, out);
    }
    case OpKind::sums:
    case OpKind::spread: {
      std::vector<Shape> operands;
      for (size_t i = 0; i < op.in.size(); ++i) operands.push_back(in(i));
      return op.kind == OpKind::sums ? sums_shape(*op.sums, operands) : spread_shape(*op.spread, operands);
    }
    case OpKind::lookup: {
      const SumsSpec::Table& table = op.sums->tables[0];
      Shape out = in(0);
      out.push_back(static_cast<int64_t>(table.planes.size()) / table.tokens);
      return out;
    }
    case OpKind::recurrent:
      break;  // has several results
    case OpKind::decode:
    case OpKind::encode:
      return in(0);
    case OpKind::quantised_sum:
      if (in(1) != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(1)));
      return reshaped(op, in(0));
    case OpKind::binary:
      return reshaped(op, pair_shape(program, op, in(0), in(1)));
    case OpKind::concat: {
      Shape out = in(0);
      for (size_t i = 1; i < op.in.size(); ++i) {
        Shape other = in(i);
        if (other.size() != out.size() || other.size() < 2) misfit(op, "operands of different rank");
        out[1] += other[1];
        other[1] = in(0)[1];
        if (other != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(i)));
      }
      return out;
    }
    case OpKind::reshape: {
      if (!op.target.empty()) return reshaped(op, in(0));
      int64_t features = 1;
      for (size_t i = 1; i < in(0).size(); ++i) features *= in(0)[i];
      return {in(0)[0], features};
    }
  }
  misfit(op, "unknown operation");
}

}  // namespace

int32_t operand_type(const Op& op, size_t k) {
  if (op.kind == OpKind::recurrent && k == 1 && (op.recurrent->operands & kLengths)) return abi::kInt32;
  if (op.kind == OpKind::lookup) return abi::kInt64;
  if (op.kind != OpKind::attention || k != 3) return abi::kFloat;
  switch (op.attention->mask_of) {
    case AttentionSpec::MaskOf::floats: return abi::kFloat;
    case AttentionSpec::MaskOf::shown_bytes:
    case AttentionSpec::MaskOf::hidden_bytes: return abi::kBool;
    case AttentionSpec::MaskOf::shown_ints: return abi::kInt32;
  }
  return abi::kFloat;
}

bool enters_as_is(int32_t type) {
  return type == abi::kFloat || type == abi::kInt32 || type == abi::kInt64 || type == abi::kBool;
}

void fuse(Program* program) {
  for (bool changed = true; changed;) {
    changed = false;
    Uses uses(*program);
    for (size_t i = 0; i < program->ops.size();) {
      if (!absorb(program, uses, i)) {
        ++i;
        continue;
      }
      changed = true;
      uses = Uses(*program);
    }
  }
}

namespace {

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

Digest weight_digest(const Op& op) {
  const WeightSource& source = *op.source;
  if (!source.content.known()) return {};
  Hasher hasher;
  const kernels::ConvGeometry& g = op.geometry;
  for (int32_t v : {g.in_channels, g.out_channels, g.groups, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
                    g.dilation_h, g.dilation_w, g.pad_top, g.pad_left, g.pad_bottom, g.pad_right})
    hasher.put(v);
  hasher.put(source.content).put(source.dense.row_stride).put(source.dense.column_stride);
  return hasher.list(source.row_scale).list(source.bias).digest();
}

std::shared_ptr<const kernels::Weights> packed_weight(const Op& op, bool compact) {
  static Shared<const kernels::Weights> held;
  const Digest digest = weight_digest(op);
  const Digest key = digest.known() ? Hasher().put(digest).put(compact).digest() : Digest{};
  if (auto known = held.find(key)) return known;
  const WeightSource& given = *op.source;
  // A blob comes unpacked only here: most of the time it is known.
  const auto unpacked = given.blob ? packed_source(*given.blob, op.geometry, {given.dense.row_stride, given.dense.column_stride}) : nullptr;
  const WeightSource& source = unpacked ? *unpacked : given;
  kernels::PackOptions options;
  options.compact = compact;
  options.row_scale = given.row_scale.empty() ? nullptr : given.row_scale.data();
  options.bias = given.bias.empty() ? nullptr : given.bias.data();
  kernels::WeightsPtr weights;
  kernels::Status status =
      source.sparse_input()
          ? kernels::pack_csr(op.geometry, {source.indptr.data(), 8}, {source.indices.data(), 4}, source.values.data(),
                              static_cast<int64_t>(source.values.size()), options, &weights)
          : kernels::pack_dense(op.geometry, source.dense, options, &weights);
  if (!status.ok())
    throw std::runtime_error("onnxprune: cannot pack the weight of '" + op.label + "': " + status.message);
  return held.keep(key, std::move(weights));
}

void pack_weights(Program* program) {
  for (Op& op : program->ops) {
    if (op.has_weight() && !op.weights) op.weights = packed_weight(op, true);
    op.source.reset();
  }
}

namespace {

// Sizes that nothing real has, as damaged models promise them, would overflow what is computed from them.
const Shape& plausible(const Shape& shape) {
  constexpr int64_t kMostSize = int64_t{1} << 30, kMostElements = int64_t{1} << 40;
  int64_t elements = 1;
  for (int64_t d : shape) {
    if (d > kMostSize || (d > 0 && elements > kMostElements / d))
      throw std::invalid_argument("onnxprune: a tensor of shape " + to_string(shape) + " is too large");
    elements *= std::max<int64_t>(d, 1);
  }
  return shape;
}

}  // namespace

std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& inputs) {
  if (inputs.size() != program.inputs.size()) throw std::invalid_argument("onnxprune: wrong number of inputs");
  std::vector<Shape> shapes(static_cast<size_t>(program.value_count));
  for (size_t i = 0; i < inputs.size(); ++i) shapes[static_cast<size_t>(program.inputs[i])] = plausible(inputs[i]);
  for (const Op& op : program.ops) {
    if (op.kind != OpKind::recurrent) {
      shapes[static_cast<size_t>(op.out)] = plausible(op_shape(program, op, shapes));
      continue;
    }
    std::vector<Shape> operands;
    for (int v : op.in) operands.push_back(shapes[static_cast<size_t>(v)]);
    const std::vector<Shape> results = recurrent_shapes(*op.recurrent, operands);
    shapes[static_cast<size_t>(op.out)] = plausible(reshaped(op, results[0]));
    for (size_t i = 0; i < op.more.size(); ++i) shapes[static_cast<size_t>(op.more[i])] = plausible(results[i + 1]);
  }
  return shapes;
}

View view(Domain domain, const Shape& shape) {
  View v;
  const size_t rank = shape.size();
  switch (domain) {
    case Domain::image:
      if (rank > 0) v.images = shape[0];
      if (rank > 1) v.channels = shape[1];
      if (rank == 3) v.width = shape[2];
      if (rank == 4) v.height = shape[2], v.width = shape[3];
      break;
    case Domain::tokens:
      for (size_t i = 0; i + 1 < rank; ++i) v.width *= shape[i];
      if (rank > 0) v.channels = shape[rank - 1];
      break;
    case Domain::left:
      for (size_t i = 0; i + 2 < rank; ++i) v.images *= shape[i];
      if (rank > 1) v.channels = shape[rank - 2];
      if (rank > 0) v.width = shape[rank - 1];
      break;
  }
  return v;
}

}  // namespace onnxprune::ep
