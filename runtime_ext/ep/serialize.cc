#include "ep/serialize.h"

#include <stdexcept>

#include "ep/bytes.h"
#include "ep/check_program.h"
#include "ep/crc32.h"
#include "ep/options.h"
#include "ep/recurrent.h"
#include "kernels/geometry_fields.h"

namespace onnxprune::ep {

template <> constexpr Domain kLast<Domain> = Domain::left;
template <> constexpr OpKind kLast<OpKind> = OpKind::group_norm;
template <> constexpr Fit kLast<Fit> = Fit::different;
template <> constexpr kernels::Binary kLast<kernels::Binary> = kernels::Binary::divide;
template <> constexpr kernels::Activation kLast<kernels::Activation> = kernels::Activation::quantise;
template <> constexpr kernels::Residual kLast<kernels::Residual> = kernels::Residual::after_activation;
template <> constexpr kernels::Cell kLast<kernels::Cell> = kernels::Cell::rnn;
template <> constexpr AttentionSpec::MaskOf kLast<AttentionSpec::MaskOf> = AttentionSpec::MaskOf::shown_ints;
template <> constexpr AttentionSpec::Empty kLast<AttentionSpec::Empty> = AttentionSpec::Empty::zero_masked;
template <> constexpr AttentionSpec::Causal kLast<AttentionSpec::Causal> = AttentionSpec::Causal::from_last;
template <>
constexpr ResizeSpec::Coordinates kLast<ResizeSpec::Coordinates> = ResizeSpec::Coordinates::half_pixel_symmetric;
template <> constexpr ResizeSpec::Nearest kLast<ResizeSpec::Nearest> = ResizeSpec::Nearest::simple;

template <typename Io>
static void fields(Io& io, Its<Io, kernels::ConvGeometry>& g) {
  for (auto field : kernels::kGeometryFields) io(g.*field);
}

template <typename Io>
static void fields(Io& io, Its<Io, kernels::Epilogue>& e) {
  io(e.activation, e.alpha, e.beta, e.step, e.residual);
}

template <typename Io>
static void fields(Io& io, Its<Io, kernels::ResponseNorm>& n) {
  io(n.size, n.alpha, n.beta, n.bias);
}

template <typename Io>
static void fields(Io& io, Its<Io, AttentionSpec::Axes>& a) {
  io(a.batch, a.head, a.token, a.feature, a.offset);
}

template <typename Io>
static void fields(Io& io, Its<Io, AttentionSpec>& s) {
  io(s.dim, s.value_dim, s.q_step, s.k_step, s.v_step, s.q_head, s.k_head, s.v_head, s.q_tokens, s.k_tokens);
  io(s.scale, s.mask_scale, s.fill, s.mask_of, s.denied, s.empty, s.causal, s.mask_gap);
  io(s.roles, s.mask_shape, s.mask, s.k_axes, s.v_axes);
}

template <typename Io>
static void fields(Io& io, Its<Io, ResizeSpec>& s) {
  io(s.linear, s.coordinates, s.nearest);
  for (auto& axis : s.axes) io(axis.scale, axis.size);
}

template <typename Io>
static void fields(Io& io, Its<Io, RecurrentSpec>& s) {
  io(s.shape.cell, s.shape.hidden, s.shape.directions, s.shape.reverse, s.shape.reset_after);
  io(s.results, s.operands, s.batch, s.lengths, s.h, s.c, s.bias);
}

template <typename Io>
static void fields(Io& io, Its<Io, SumsSpec::Table>& t) {
  io(t.tokens, t.planes);
}

template <typename Io>
static void fields(Io& io, Its<Io, SumsSpec>& s) {
  io(s.terms, s.starts, s.tables, s.sequence);
}

template <typename Io>
static void fields(Io& io, Its<Io, SpreadSpec::Part>& p) {
  io(p.roles, p.sizes, p.features, p.tokens);
}

template <typename Io>
static void fields(Io& io, Its<Io, SpreadSpec>& s) {
  io(s.axis, s.parts);
}

// All but the weight.
template <typename Io>
static void fields(Io& io, Its<Io, Op>& op) {
  io(op.kind, op.label, op.nodes, op.in, op.out, op.more, op.residual, op.geometry);
  io(op.maximum, op.count_include_pad, op.signs, op.fit, op.binary, op.epilogue);
  io(op.target, op.scale, op.shift, op.slope, op.channels, op.bias, op.epsilon, op.centred);
  switch (op.kind) {
    case OpKind::attention: return io(op.attention);
    case OpKind::resize: return io(op.resize);
    case OpKind::recurrent: return io(op.recurrent);
    case OpKind::sums:
    case OpKind::lookup: return io(op.sums);
    case OpKind::spread: return io(op.spread);
    case OpKind::response_norm: return io(op.response);
    default: return;
  }
}

// All but the operations.
template <typename Io>
static void fields(Io& io, Its<Io, Program>& p) {
  io(p.domain, p.value_count, p.inputs, p.outputs, p.output_ranks, p.slots, p.input_types, p.output_types, p.input_shapes);
}

namespace {

constexpr char kMagic[4] = {'O', 'P', 'C', 'X'};
constexpr uint32_t kFormat = 7;
constexpr size_t kHead = 12;  // magic, format, checksum

std::vector<uint8_t> weight_blob(const Op& op) {
  std::vector<uint8_t> blob;
  if (op.has_weight()) {
    blob.resize(op.weights->blob_bytes());
    op.weights->write_blob(blob.data());
  }
  return blob;
}

void take_weight(Op* op, const std::vector<uint8_t>& blob) {
  if (!op->has_weight()) return;
  kernels::WeightsPtr weights;
  const kernels::Status status = kernels::read_blob(blob.data(), blob.size(), &weights);
  if (!status.ok()) throw std::invalid_argument(status.message);
  op->geometry = weights->geometry();
  op->weights = std::move(weights);
  op->digest = Hasher().bytes(blob.data(), blob.size()).digest();
}

// Refuses what is in order, but not for this library or machine.
[[noreturn]] void unfit(const std::string& what) { throw std::runtime_error("onnxprune: the " + what); }

// Whether the rest can be read here.
void check_head(Reader& r, const std::string& bytes) {
  const auto format = r.next<uint32_t>();
  if (format != kFormat)
    unfit("compiled model has format version " + std::to_string(format) + ", this library reads " + std::to_string(kFormat) +
          "; compile it again");
  if (r.next<uint32_t>() != crc32(bytes.data() + kHead, bytes.size() - kHead)) throw std::invalid_argument("checksum");
  const auto version = r.next<std::string>();
  if (version != kVersion)
    unfit("model was compiled by version " + version + ", this is " + kVersion + "; compile it again");
  const auto isa_text = r.next<std::string>();
  kernels::Isa isa;
  if (!kernels::isa_from_name(isa_text.c_str(), &isa)) throw std::invalid_argument("instruction set");
  if (!kernels::isa_supported(isa))
    unfit("model was compiled for " + isa_text + ", which this machine does not have; compile it again here");
}

Program read_program(const std::string& bytes) {
  if (bytes.size() < kHead || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) throw std::invalid_argument("no header");
  Reader r(bytes.data() + sizeof kMagic, bytes.size() - sizeof kMagic);
  check_head(r, bytes);
  Program program;
  r(program);
  for (auto left = r.next<uint64_t>(); left > 0; --left) {
    std::vector<uint8_t> blob;
    Op& op = program.ops.emplace_back();
    r(op, blob);
    take_weight(&op, blob);
  }
  if (r.left() != 0) throw std::invalid_argument("bytes after the end");
  check_program(program);
  return program;
}

}  // namespace

std::string op_bytes(const Op& op) {
  Writer w;
  w(op);
  return std::move(w.bytes);
}

std::string save_program(const Program& program, kernels::Isa isa) {
  Writer w;
  w(std::string(kVersion), std::string(kernels::isa_name(isa)), program, uint64_t{program.ops.size()});
  for (const Op& op : program.ops) w(op, weight_blob(op));
  Writer head;
  head.bytes.assign(kMagic, sizeof kMagic);
  head(kFormat, crc32(w.bytes.data(), w.bytes.size()));
  return head.bytes + w.bytes;
}

Program load_program(const std::string& bytes) {
  try {
    return read_program(bytes);
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error(std::string("onnxprune: the compiled model is damaged (") + e.what() +
                             "); compile it again from the original model");
  }
}

}  // namespace onnxprune::ep
