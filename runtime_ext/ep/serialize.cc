#include "ep/serialize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "ep/crc32.h"
#include "ep/options.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

constexpr char kMagic[4] = {'O', 'P', 'C', 'X'};
constexpr uint32_t kFormat = 7;
constexpr uint64_t kMostValues = 1u << 20;

[[noreturn]] void damaged(const char* what) {
  throw std::runtime_error(std::string("onnxprune: the compiled model is damaged (") + what +
                           "); compile it again from the original model");
}

class Writer {
 public:
  template <typename T>
  void put(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(const std::string& s) {
    put<uint64_t>(s.size());
    bytes_ += s;
  }
  template <typename T>
  void list(const std::vector<T>& values) {
    put<uint64_t>(values.size());
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  std::string bytes_;
};

class Reader {
 public:
  Reader(const char* data, size_t size) : at_(data), end_(data + size) {}
  template <typename T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  template <typename T>
  T get_enum(T last) {
    const uint8_t raw = get<uint8_t>();
    if (raw > static_cast<uint8_t>(last)) damaged("unknown kind");
    return static_cast<T>(raw);
  }
  std::string text() {
    const uint64_t size = get<uint64_t>();
    if (size > left()) damaged("text too long");
    const char* data = take(size);
    return {data, static_cast<size_t>(size)};
  }
  template <typename T>
  std::vector<T> list() {
    const uint64_t count = get<uint64_t>();
    if (count > left() / sizeof(T)) damaged("list too long");
    std::vector<T> out(static_cast<size_t>(count));
    if (count > 0) std::memcpy(out.data(), take(count * sizeof(T)), count * sizeof(T));
    return out;
  }
  const char* take(uint64_t size) {
    if (size > left()) damaged("cut short");
    const char* data = at_;
    at_ += size;
    return data;
  }
  uint64_t left() const { return static_cast<uint64_t>(end_ - at_); }

 private:
  const char *at_, *end_;
};

void write_geometry(Writer* w, const kernels::ConvGeometry& g) {
  for (int32_t v : {g.in_channels, g.out_channels, g.groups, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
                    g.dilation_h, g.dilation_w, g.pad_top, g.pad_left, g.pad_bottom, g.pad_right})
    w->put(v);
}

kernels::ConvGeometry read_geometry(Reader* r) {
  kernels::ConvGeometry g;
  for (int32_t* v : {&g.in_channels, &g.out_channels, &g.groups, &g.kernel_h, &g.kernel_w, &g.stride_h, &g.stride_w,
                     &g.dilation_h, &g.dilation_w, &g.pad_top, &g.pad_left, &g.pad_bottom, &g.pad_right})
    *v = r->get<int32_t>();
  return g;
}

void write_attention(Writer* w, const AttentionSpec& s) {
  for (int32_t v : {s.dim, s.value_dim, s.q_step, s.k_step, s.v_step}) w->put(v);
  for (const auto* heads : {&s.q_head, &s.k_head, &s.v_head}) w->list(*heads);
  w->put(s.q_tokens);
  w->put(s.k_tokens);
  w->put(s.scale);
  w->put(s.mask_scale);
  w->put(s.fill);
  w->put(static_cast<uint8_t>(s.mask_of));
  w->put(s.denied);
  w->put(static_cast<uint8_t>(s.empty));
  w->put(static_cast<uint8_t>(s.causal));
  w->put(s.mask_gap);
  w->list(s.roles);
  w->list(s.mask_shape);
  w->list(s.mask);
  for (const auto* axes : {&s.k_axes, &s.v_axes}) {
    for (int32_t axis : {axes->batch, axes->head, axes->token, axes->feature}) w->put(axis);
    w->list(axes->offset);
  }
}

std::shared_ptr<const AttentionSpec> read_attention(Reader* r) {
  auto s = std::make_shared<AttentionSpec>();
  for (int32_t* v : {&s->dim, &s->value_dim, &s->q_step, &s->k_step, &s->v_step}) *v = r->get<int32_t>();
  for (auto* heads : {&s->q_head, &s->k_head, &s->v_head}) *heads = r->list<int32_t>();
  s->q_tokens = r->get<int64_t>();
  s->k_tokens = r->get<int64_t>();
  s->scale = r->get<float>();
  s->mask_scale = r->get<float>();
  s->fill = r->get<float>();
  s->mask_of = r->get_enum(AttentionSpec::MaskOf::shown_ints);
  s->denied = r->get<float>();
  s->empty = r->get_enum(AttentionSpec::Empty::zero_masked);
  s->causal = r->get_enum(AttentionSpec::Causal::from_last);
  s->mask_gap = r->get<int32_t>();
  s->roles = r->list<uint8_t>();
  s->mask_shape = r->list<int64_t>();
  s->mask = r->list<float>();
  for (auto* axes : {&s->k_axes, &s->v_axes}) {
    for (int32_t* axis : {&axes->batch, &axes->head, &axes->token, &axes->feature}) *axis = r->get<int32_t>();
    axes->offset = r->list<int64_t>();
  }
  for (int64_t d : s->mask_shape)
    if (d < 1 || d > static_cast<int64_t>(kMostValues)) damaged("mask");
  try {
    check_attention(*s);
  } catch (const std::invalid_argument& e) {
    damaged(e.what());
  }
  return s;
}

void write_resize(Writer* w, const ResizeSpec& s) {
  w->put(static_cast<uint8_t>(s.linear));
  w->put(static_cast<uint8_t>(s.coordinates));
  w->put(static_cast<uint8_t>(s.nearest));
  for (const ResizeSpec::Axis& axis : s.axes) {
    w->put(axis.scale);
    w->put(axis.size);
  }
}

std::shared_ptr<const ResizeSpec> read_resize(Reader* r) {
  auto s = std::make_shared<ResizeSpec>();
  s->linear = r->get<uint8_t>() != 0;
  s->coordinates = r->get_enum(ResizeSpec::Coordinates::half_pixel_symmetric);
  s->nearest = r->get_enum(ResizeSpec::Nearest::simple);
  for (ResizeSpec::Axis& axis : s->axes) {
    axis.scale = r->get<float>();
    axis.size = r->get<int64_t>();
  }
  try {
    check_resize(*s);
  } catch (const std::invalid_argument& e) {
    damaged(e.what());
  }
  return s;
}

void write_recurrent(Writer* w, const RecurrentSpec& s) {
  w->put(static_cast<uint8_t>(s.shape.cell));
  w->put(s.shape.hidden);
  w->put(s.shape.directions);
  w->put(static_cast<uint8_t>(s.shape.reverse));
  w->put(static_cast<uint8_t>(s.shape.reset_after));
  w->put(s.results);
  w->put(s.operands);
  w->put(s.batch);
  w->list(s.lengths);
  for (const auto* list : {&s.h, &s.c, &s.bias}) w->list(*list);
}

std::shared_ptr<const RecurrentSpec> read_recurrent(Reader* r) {
  auto s = std::make_shared<RecurrentSpec>();
  s->shape.cell = r->get_enum(kernels::Cell::rnn);
  s->shape.hidden = r->get<int32_t>();
  s->shape.directions = r->get<int32_t>();
  s->shape.reverse = r->get<uint8_t>() != 0;
  s->shape.reset_after = r->get<uint8_t>() != 0;
  s->results = r->get<uint8_t>();
  s->operands = r->get<uint8_t>();
  s->batch = r->get<int64_t>();
  s->lengths = r->list<int32_t>();
  for (auto* list : {&s->h, &s->c, &s->bias}) *list = r->list<float>();
  try {
    check_recurrent(*s);
  } catch (const std::invalid_argument& e) {
    damaged(e.what());
  }
  return s;
}

void write_sums(Writer* w, const SumsSpec& s) {
  w->list(s.terms);
  w->list(s.starts);
  w->put<uint64_t>(s.tables.size());
  for (const auto& table : s.tables) {
    w->put(table.tokens);
    w->list(table.planes);
  }
  w->put(s.sequence);
}

std::shared_ptr<const SumsSpec> read_sums(Reader* r, size_t operands, void (*check)(const SumsSpec&, size_t)) {
  auto s = std::make_shared<SumsSpec>();
  s->terms = r->list<kernels::PlaneSums::Term>();
  s->starts = r->list<int32_t>();
  const uint64_t tables = r->get<uint64_t>();
  if (tables > kMostValues) damaged("number of tables");
  for (uint64_t i = 0; i < tables; ++i) {
    const int64_t tokens = r->get<int64_t>();
    s->tables.push_back({tokens, r->list<float>()});
  }
  s->sequence = r->get<int64_t>();
  try {
    check(*s, operands);
  } catch (const std::invalid_argument& e) {
    damaged(e.what());
  }
  return s;
}

void write_spread(Writer* w, const SpreadSpec& s) {
  w->put(s.axis);
  w->put<uint64_t>(s.parts.size());
  for (const auto& part : s.parts) {
    w->list(part.roles);
    w->list(part.sizes);
    w->list(part.features);
    w->put(part.tokens);
  }
}

std::shared_ptr<const SpreadSpec> read_spread(Reader* r) {
  auto s = std::make_shared<SpreadSpec>();
  s->axis = r->get<int32_t>();
  const uint64_t parts = r->get<uint64_t>();
  if (parts > kMostValues) damaged("number of parts");
  for (uint64_t i = 0; i < parts; ++i) {
    SpreadSpec::Part part;
    part.roles = r->list<uint8_t>();
    part.sizes = r->list<int64_t>();
    part.features = r->list<int32_t>();
    part.tokens = r->get<int64_t>();
    s->parts.push_back(std::move(part));
  }
  try {
    check_spread(*s);
  } catch (const std::invalid_argument& e) {
    damaged(e.what());
  }
  return s;
}

// All but the weight.
void write_op(Writer* w, const Op& op) {
  w->put(static_cast<uint8_t>(op.kind));
  w->text(op.label);
  w->put<uint64_t>(op.nodes.size());
  for (const std::string& node : op.nodes) w->text(node);
  w->list(op.in);
  w->put(op.out);
  w->list(op.more);
  w->put(op.residual);
  write_geometry(w, op.geometry);
  w->put(static_cast<uint8_t>(op.maximum));
  w->put(static_cast<uint8_t>(op.count_include_pad));
  w->put(static_cast<uint8_t>(op.signs));
  w->put(static_cast<uint8_t>(op.fit));
  w->put(static_cast<uint8_t>(op.binary));
  w->put(static_cast<uint8_t>(op.epilogue.activation));
  w->put(op.epilogue.alpha);
  w->put(op.epilogue.beta);
  w->put(op.epilogue.step);
  w->put(static_cast<uint8_t>(op.epilogue.residual));
  w->list(op.target);
  w->list(op.scale);
  w->list(op.shift);
  w->list(op.slope);
  w->list(op.channels);
  w->list(op.bias);
  w->put(op.epsilon);
  w->put(static_cast<uint8_t>(op.centred));
  if (op.kind == OpKind::attention) write_attention(w, *op.attention);
  if (op.kind == OpKind::resize) write_resize(w, *op.resize);
  if (op.kind == OpKind::recurrent) write_recurrent(w, *op.recurrent);
  if (op.kind == OpKind::sums || op.kind == OpKind::lookup) write_sums(w, *op.sums);
  if (op.kind == OpKind::spread) write_spread(w, *op.spread);
  if (op.kind == OpKind::response_norm) {
    w->put(op.response.size);
    for (float v : {op.response.alpha, op.response.beta, op.response.bias}) w->put(v);
  }
}

void write_weights(Writer* w, const Op& op) {
  std::vector<uint8_t> blob;
  if (op.has_weight()) {
    blob.resize(op.weights->blob_bytes());
    op.weights->write_blob(blob.data());
  }
  w->list(blob);
}

void check_recurrent_weight(const Op& op) {
  const kernels::ConvGeometry& g = op.geometry;
  if (g.in_channels != op.recurrent->shape.hidden || g.out_channels != op.recurrent->width() || g.groups != 1 || g.taps() != 1)
    damaged("weights of a recurrent layer");
}

Op read_op(Reader* r) {
  Op op;
  op.kind = r->get_enum(OpKind::group_norm);
  op.label = r->text();
  const uint64_t nodes = r->get<uint64_t>();
  if (nodes > kMostValues) damaged("number of nodes");
  for (uint64_t i = 0; i < nodes; ++i) op.nodes.push_back(r->text());
  op.in = r->list<int>();
  op.out = r->get<int>();
  op.more = r->list<int>();
  op.residual = r->get<int>();
  op.geometry = read_geometry(r);
  op.maximum = r->get<uint8_t>() != 0;
  op.count_include_pad = r->get<uint8_t>() != 0;
  op.signs = r->get<uint8_t>() != 0;
  op.fit = r->get_enum(Fit::different);
  op.binary = r->get_enum(kernels::Binary::divide);
  op.epilogue.activation = r->get_enum(kernels::Activation::quantise);
  op.epilogue.alpha = r->get<float>();
  op.epilogue.beta = r->get<float>();
  op.epilogue.step = r->get<float>();
  op.epilogue.residual = r->get_enum(kernels::Residual::after_activation);
  op.target = r->list<int64_t>();
  op.scale = r->list<float>();
  op.shift = r->list<float>();
  op.slope = r->list<float>();
  op.channels = r->list<int32_t>();
  op.bias = r->list<float>();
  op.epsilon = r->get<float>();
  op.centred = r->get<uint8_t>() != 0;
  if (op.kind == OpKind::attention) op.attention = read_attention(r);
  if (op.kind == OpKind::resize) op.resize = read_resize(r);
  if (op.kind == OpKind::recurrent) op.recurrent = read_recurrent(r);
  if (op.kind == OpKind::sums) op.sums = read_sums(r, op.in.size(), check_sums);
  if (op.kind == OpKind::lookup) op.sums = read_sums(r, op.in.size(), check_lookup);
  if (op.kind == OpKind::spread) op.spread = read_spread(r);
  if (op.kind == OpKind::response_norm) {
    op.response.size = r->get<int32_t>();
    for (float* v : {&op.response.alpha, &op.response.beta, &op.response.bias}) *v = r->get<float>();
    if (!kernels::check_response_norm(op.response)) damaged("response normalisation");
  }
  const std::vector<uint8_t> blob = r->list<uint8_t>();
  if (op.has_weight()) {
    kernels::WeightsPtr weights;
    kernels::Status status = kernels::read_blob(blob.data(), blob.size(), &weights);
    if (!status.ok()) damaged(status.message);
    op.geometry = weights->geometry();
    if (op.kind == OpKind::recurrent) check_recurrent_weight(op);
    op.weights = std::move(weights);
    op.digest = Hasher().bytes(blob.data(), blob.size()).digest();
    if (!op.scale.empty() && op.scale.size() != static_cast<size_t>(op.geometry.out_channels)) damaged("scale of the sums");
  } else if (op.kind == OpKind::pool) {
    if (!kernels::check_geometry(op.geometry).ok() || op.geometry.groups != op.geometry.in_channels ||
        op.geometry.out_channels != op.geometry.in_channels)
      damaged("pooling window");
  }
  if (op.kind == OpKind::interleave) {
    const kernels::ConvGeometry& g = op.geometry;
    const auto fits = [](int32_t factor, int32_t first, int32_t last) {
      return factor >= 1 && factor <= (1 << 15) && first >= 0 && first < factor && last >= 0 && last < factor;
    };
    const uint64_t planes = static_cast<uint64_t>(std::max(g.in_channels, 0));
    if (!fits(g.stride_h, g.pad_top, g.pad_bottom) || !fits(g.stride_w, g.pad_left, g.pad_right) || g.out_channels < 1 ||
        op.channels.size() != planes || planes != static_cast<uint64_t>(g.out_channels) * static_cast<uint64_t>(g.stride_h * g.stride_w) ||
        std::any_of(op.channels.begin(), op.channels.end(), [&](int32_t c) { return c < 0 || c >= g.in_channels; }))
      damaged("interleaved planes");
  }
  if (op.kind == OpKind::group_norm) {
    const int32_t channels = op.geometry.in_channels, groups = op.geometry.groups;
    const auto fits = [&](const std::vector<float>& list) {
      return list.empty() || list.size() == static_cast<size_t>(channels);
    };
    if (channels < 1 || groups < 1 || channels % groups != 0 || !fits(op.scale) || !fits(op.shift)) damaged("groups of channels");
  }
  return op;
}

size_t bits(uint8_t set) { return (set & 1u) + (set >> 1 & 1u) + (set >> 2 & 1u); }

size_t operands(const Op& op) {
  switch (op.kind) {
    case OpKind::quantised_sum:
      if (op.scale.size() != (op.shift.empty() ? 3 : 2) || (!op.shift.empty() && op.shift.size() != 4))
        damaged("quantised sum");
      return 2;
    case OpKind::decode:
    case OpKind::encode:
      if (op.shift.size() != 1) damaged("zero point");
      return 1;
    case OpKind::binary:
      return 2;
    case OpKind::resize:
      return op.resize->like() ? 2 : 1;
    case OpKind::concat:
      if (!op.target.empty()) damaged("shape of a concatenation");
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
    if (v < 0 || v >= program.value_count || made[static_cast<size_t>(v)]) damaged("value made twice");
    made[static_cast<size_t>(v)] = true;
  };
  auto read = [&](int v) {
    if (v < 0 || v >= program.value_count || !made[static_cast<size_t>(v)]) damaged("value read before it is made");
  };
  for (int v : program.inputs) make(v);
  for (const Op& op : program.ops) {
    if (op.in.size() != operands(op)) damaged("number of operands");
    for (int v : op.in) read(v);
    const bool residual = op.epilogue.residual != kernels::Residual::none;
    if (residual != (op.residual >= 0) || (residual && op.kind != OpKind::conv)) damaged("residual");
    if (residual) read(op.residual);
    if (op.more.size() != (op.kind == OpKind::recurrent ? bits(op.recurrent->results) - 1 : 0)) damaged("number of results");
    const bool tokens = op.kind == OpKind::recurrent || op.kind == OpKind::sums || op.kind == OpKind::spread || op.kind == OpKind::lookup;
    if (tokens && program.domain != Domain::tokens) damaged("domain");
    const bool image = op.kind == OpKind::response_norm || op.kind == OpKind::group_norm;
    if (image && program.domain != Domain::image) damaged("domain");
    make(op.out);
    for (int v : op.more) make(v);
  }
  std::vector<bool> out(static_cast<size_t>(program.value_count), false);
  for (int v : program.outputs) {
    read(v);
    if (out[static_cast<size_t>(v)]) damaged("output twice");
    out[static_cast<size_t>(v)] = true;
  }
}

// Integers cross the border through operations of their own, and nothing else does there.
void check_borders(const Program& program) {
  if (program.input_types.size() != program.inputs.size() || program.output_types.size() != program.outputs.size())
    damaged("types at the border");
  std::vector<int32_t> type(static_cast<size_t>(program.value_count), abi::kFloat);
  for (size_t i = 0; i < program.inputs.size(); ++i) type[static_cast<size_t>(program.inputs[i])] = program.input_types[i];
  for (size_t i = 0; i < program.outputs.size(); ++i) {
    int32_t& known = type[static_cast<size_t>(program.outputs[i])];
    if (known != abi::kFloat && known != program.output_types[i]) damaged("types at the border");
    known = program.output_types[i];
  }
  for (int32_t t : type)
    if (t != abi::kUint8 && t != abi::kInt8 && !enters_as_is(t)) damaged("types at the border");
  std::vector<int32_t> left = type;  // of which the crossing has not been seen
  for (const Op& op : program.ops) {
    const int32_t integers = op.signs ? abi::kInt8 : abi::kUint8;
    for (size_t k = 0; k < op.in.size(); ++k) {
      const int32_t expected = op.kind == OpKind::decode ? integers : operand_type(op, k);
      if (type[static_cast<size_t>(op.in[k])] != expected) damaged("types at the border");
    }
    if (op.residual >= 0 && type[static_cast<size_t>(op.residual)] != abi::kFloat) damaged("types at the border");
    if (type[static_cast<size_t>(op.out)] != (op.kind == OpKind::encode ? integers : abi::kFloat)) damaged("types at the border");
    if (op.kind == OpKind::encode) left[static_cast<size_t>(op.out)] = abi::kFloat;
  }
  for (int v : program.outputs)
    if (left[static_cast<size_t>(v)] != abi::kFloat) damaged("types at the border");
}

}  // namespace

std::string op_bytes(const Op& op) {
  Writer w;
  write_op(&w, op);
  return std::move(w.bytes_);
}

std::string save_program(const Program& program, kernels::Isa isa) {
  Writer w;
  w.text(kVersion);
  w.text(kernels::isa_name(isa));
  w.put(static_cast<uint8_t>(program.domain));
  w.put(program.value_count);
  w.list(program.inputs);
  w.list(program.outputs);
  w.list(program.output_ranks);
  w.list(program.slots);
  w.list(program.input_types);
  w.list(program.output_types);
  w.put<uint64_t>(program.input_shapes.size());
  for (const Shape& shape : program.input_shapes) w.list(shape);
  w.put<uint64_t>(program.ops.size());
  for (const Op& op : program.ops) {
    write_op(&w, op);
    write_weights(&w, op);
  }
  Writer head;
  head.bytes_.append(kMagic, sizeof kMagic);
  head.put(kFormat);
  head.put(crc32(w.bytes_.data(), w.bytes_.size()));
  return head.bytes_ + w.bytes_;
}

Program load_program(const std::string& bytes) {
  Reader r(bytes.data(), bytes.size());
  if (bytes.size() < 12 || std::memcmp(r.take(4), kMagic, 4) != 0) damaged("no header");
  const uint32_t format = r.get<uint32_t>();
  if (format != kFormat)
    throw std::runtime_error("onnxprune: the compiled model has format version " + std::to_string(format) +
                             ", this library reads " + std::to_string(kFormat) + "; compile it again");
  const uint32_t crc = r.get<uint32_t>();
  if (crc != crc32(bytes.data() + 12, bytes.size() - 12)) damaged("checksum");
  const std::string version = r.text();
  if (version != kVersion)
    throw std::runtime_error("onnxprune: the model was compiled by version " + version + ", this is " + kVersion +
                             "; compile it again");
  const std::string isa_text = r.text();
  kernels::Isa isa;
  if (!kernels::isa_from_name(isa_text.c_str(), &isa)) damaged("instruction set");
  if (!kernels::isa_supported(isa))
    throw std::runtime_error("onnxprune: the model was compiled for " + isa_text +
                             ", which this machine does not have; compile it again here");
  Program program;
  const uint8_t domain = r.get<uint8_t>();
  if (domain != 1 && domain != 2 && domain != 4) damaged("domain");
  program.domain = static_cast<Domain>(domain);
  program.value_count = r.get<int>();
  if (program.value_count < 0 || static_cast<uint64_t>(program.value_count) > kMostValues) damaged("number of values");
  program.inputs = r.list<int>();
  program.outputs = r.list<int>();
  program.output_ranks = r.list<int>();
  program.slots = r.list<int>();
  program.input_types = r.list<int32_t>();
  program.output_types = r.list<int32_t>();
  if (!program.slots.empty() && program.slots.size() != program.inputs.size()) damaged("slots of the inputs");
  const uint64_t shapes = r.get<uint64_t>();
  if (shapes != program.inputs.size()) damaged("input shapes");
  for (uint64_t i = 0; i < shapes; ++i) program.input_shapes.push_back(r.list<int64_t>());
  const uint64_t ops = r.get<uint64_t>();
  if (ops > kMostValues) damaged("number of operations");
  for (uint64_t i = 0; i < ops; ++i) program.ops.push_back(read_op(&r));
  if (r.left() != 0) damaged("bytes after the end");
  check_order(program);
  check_borders(program);
  return program;
}

}  // namespace onnxprune::ep
