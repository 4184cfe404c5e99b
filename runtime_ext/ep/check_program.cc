#include "ep/check_program.h"

#include <algorithm>
#include <stdexcept>

#include "abi/types.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMostValues = 1 << 20;

[[noreturn]] void misfit(const char* what) { throw std::invalid_argument(what); }

void check_spec(const Op& op) {
  switch (op.kind) {
    case OpKind::attention:
      for (int64_t d : op.attention->mask_shape)
        if (d < 1 || d > kMostValues) misfit("mask");
      return check_attention(*op.attention);
    case OpKind::resize:
      return check_resize(*op.resize);
    case OpKind::recurrent:
      return check_recurrent(*op.recurrent);
    case OpKind::sums:
      return check_sums(*op.sums, op.in.size());
    case OpKind::lookup:
      return check_lookup(*op.sums, op.in.size());
    case OpKind::spread:
      return check_spread(*op.spread);
    case OpKind::response_norm:
      if (!kernels::check_response_norm(op.response)) misfit("response normalisation");
      return;
    default:
      return;
  }
}

// What the geometry and the lists of an op say of each other.
void check_geometry(const Op& op) {
  const kernels::ConvGeometry& g = op.geometry;
  if (op.kind == OpKind::recurrent &&
      (g.in_channels != op.recurrent->shape.hidden || g.out_channels != op.recurrent->width() || g.groups != 1 || g.taps() != 1))
    misfit("weights of a recurrent layer");
  if (op.has_weight() && !op.scale.empty() && op.scale.size() != static_cast<size_t>(g.out_channels)) misfit("scale of the sums");
  if (op.kind == OpKind::pool &&
      (!kernels::check_geometry(g).ok() || g.groups != g.in_channels || g.out_channels != g.in_channels))
    misfit("pooling window");
  if (op.kind == OpKind::interleave) {
    const auto fits = [](int32_t factor, int32_t first, int32_t last) {
      return factor >= 1 && factor <= (1 << 15) && first >= 0 && first < factor && last >= 0 && last < factor;
    };
    const uint64_t planes = static_cast<uint64_t>(std::max(g.in_channels, 0));
    if (!fits(g.stride_h, g.pad_top, g.pad_bottom) || !fits(g.stride_w, g.pad_left, g.pad_right) || g.out_channels < 1 ||
        op.channels.size() != planes || planes != static_cast<uint64_t>(g.out_channels) * static_cast<uint64_t>(g.stride_h * g.stride_w) ||
        std::any_of(op.channels.begin(), op.channels.end(), [&](int32_t c) { return c < 0 || c >= g.in_channels; }))
      misfit("interleaved planes");
  }
  if (op.kind == OpKind::group_norm) {
    const auto fits = [&](const std::vector<float>& list) {
      return list.empty() || list.size() == static_cast<size_t>(g.in_channels);
    };
    if (g.in_channels < 1 || g.groups < 1 || g.in_channels % g.groups != 0 || !fits(op.scale) || !fits(op.shift))
      misfit("groups of channels");
  }
}

size_t bits(uint8_t set) { return (set & 1u) + (set >> 1 & 1u) + (set >> 2 & 1u); }

size_t operands(const Op& op) {
  switch (op.kind) {
    case OpKind::quantised_sum:
      if (op.scale.size() != (op.shift.empty() ? 3 : 2) || (!op.shift.empty() && op.shift.size() != 4))
        misfit("quantised sum");
      return 2;
    case OpKind::decode:
    case OpKind::encode:
      if (op.shift.size() != 1) misfit("zero point");
      return 1;
    case OpKind::binary:
      return 2;
    case OpKind::resize:
      return op.resize->like() ? 2 : 1;
    case OpKind::concat:
      if (!op.target.empty()) misfit("shape of a concatenation");
      return op.in.size() < 2 ? 2 : op.in.size();
    case OpKind::norm:
      return op.in.size() == 2 ? 2 : 1;
    case OpKind::attention:
      return op.attention->mask.empty() && op.in.size() == 4 ? 4 : 3;
    case OpKind::sums:
      return std::max<size_t>(1, op.in.size());
    case OpKind::spread:
      return op.spread->parts.size();
    case OpKind::recurrent:
      return 1 + bits(op.recurrent->operands);
    default:
      return 1;
  }
}

// Every value made once and before it is read.
void check_order(const Program& program) {
  std::vector<bool> made(static_cast<size_t>(program.value_count), false);
  auto make = [&](int v) {
    if (v < 0 || v >= program.value_count || made[static_cast<size_t>(v)]) misfit("value made twice");
    made[static_cast<size_t>(v)] = true;
  };
  auto read = [&](int v) {
    if (v < 0 || v >= program.value_count || !made[static_cast<size_t>(v)]) misfit("value read before it is made");
  };
  for (int v : program.inputs) make(v);
  for (const Op& op : program.ops) {
    if (op.in.size() != operands(op)) misfit("number of operands");
    for (int v : op.in) read(v);
    const bool residual = op.epilogue.residual != kernels::Residual::none;
    if (residual != (op.residual >= 0) || (residual && op.kind != OpKind::conv)) misfit("residual");
    if (residual) read(op.residual);
    if (op.more.size() != (op.kind == OpKind::recurrent ? bits(op.recurrent->results) - 1 : 0)) misfit("number of results");
    const bool tokens = op.kind == OpKind::recurrent || op.kind == OpKind::sums || op.kind == OpKind::spread || op.kind == OpKind::lookup;
    if (tokens && program.domain != Domain::tokens) misfit("domain");
    const bool image = op.kind == OpKind::response_norm || op.kind == OpKind::group_norm;
    if (image && program.domain != Domain::image) misfit("domain");
    make(op.out);
    for (int v : op.more) make(v);
  }
  std::vector<bool> out(static_cast<size_t>(program.value_count), false);
  for (int v : program.outputs) {
    read(v);
    if (out[static_cast<size_t>(v)]) misfit("output twice");
    out[static_cast<size_t>(v)] = true;
  }
}

// Integers cross the border through operations of their own, and nothing else does there.
void check_borders(const Program& program) {
  if (program.input_types.size() != program.inputs.size() || program.output_types.size() != program.outputs.size())
    misfit("types at the border");
  std::vector<int32_t> type(static_cast<size_t>(program.value_count), abi::kFloat);
  for (size_t i = 0; i < program.inputs.size(); ++i) type[static_cast<size_t>(program.inputs[i])] = program.input_types[i];
  for (size_t i = 0; i < program.outputs.size(); ++i) {
    int32_t& known = type[static_cast<size_t>(program.outputs[i])];
    if (known != abi::kFloat && known != program.output_types[i]) misfit("types at the border");
    known = program.output_types[i];
  }
  for (int32_t t : type)
    if (t != abi::kUint8 && t != abi::kInt8 && !enters_as_is(t)) misfit("types at the border");
  std::vector<int32_t> left = type;  // of which the crossing has not been seen
  for (const Op& op : program.ops) {
    const int32_t integers = op.signs ? abi::kInt8 : abi::kUint8;
    for (size_t k = 0; k < op.in.size(); ++k) {
      const int32_t expected = op.kind == OpKind::decode ? integers : operand_type(op, k);
      if (type[static_cast<size_t>(op.in[k])] != expected) misfit("types at the border");
    }
    if (op.residual >= 0 && type[static_cast<size_t>(op.residual)] != abi::kFloat) misfit("types at the border");
    if (type[static_cast<size_t>(op.out)] != (op.kind == OpKind::encode ? integers : abi::kFloat)) misfit("types at the border");
    if (op.kind == OpKind::encode) left[static_cast<size_t>(op.out)] = abi::kFloat;
  }
  for (int v : program.outputs)
    if (left[static_cast<size_t>(v)] != abi::kFloat) misfit("types at the border");
}

}  // namespace

void check_program(const Program& program) {
  if (program.domain != Domain::image && program.domain != Domain::tokens && program.domain != Domain::left) misfit("domain");
  if (program.value_count < 0 || program.value_count > kMostValues) misfit("number of values");
  if (!program.slots.empty() && program.slots.size() != program.inputs.size()) misfit("slots of the inputs");
  if (program.input_shapes.size() != program.inputs.size()) misfit("input shapes");
  for (const Op& op : program.ops) {
    check_spec(op);
    check_geometry(op);
  }
  check_order(program);
  check_borders(program);
}

}  // namespace onnxprune::ep
