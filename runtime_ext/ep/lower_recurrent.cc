// LSTM, GRU and RNN with constant weights: one weighted sum over the inputs of all steps, then the steps.
#include <algorithm>
#include <cctype>

#include "ep/lower_internal.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

using kernels::Cell;

// A state vector of more would be no network.
constexpr int64_t kMostUnits = 1 << 20;

std::string lower_case(std::string text) {
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

class Layer {
 public:
  Layer(const LowerContext& context, const GraphNode& node, Cell cell, Unit* unit)
      : context_(context), node_(node), cell_(cell), lstm_(cell == Cell::lstm), unit_(unit), spec_(std::make_shared<RecurrentSpec>()) {}

  void run() {
    attributes();
    const int x = context_.activation(node_, 0);
    const Dims in = three_axes(x, {{}, {}, {}});
    const Constant w = matrix(1, "the weight of the input"), r = matrix(2, "the weight of the state");
    inputs_ = w.desc.dims[2];
    hidden_ = r.desc.dims[2];
    kernels::RecurrentShape& shape = spec_->shape;
    const int64_t gates = kernels::gates_of(cell_);
    if (hidden_ < 1 || hidden_ > kMostUnits || inputs_ < 1 || inputs_ > kMostUnits * 64) throw Unsupported("sizes out of range");
    const Shape expected_w = {shape.directions, gates * hidden_, inputs_}, expected_r = {shape.directions, gates * hidden_, hidden_};
    if (w.desc.dims != expected_w || r.desc.dims != expected_r) throw Unsupported("the weights do not fit each other");
    if (attr_int(node_, "hidden_size", hidden_) != hidden_) throw Unsupported("hidden_size differs from the weights");
    if (in[2].known() && in[2].value != inputs_) throw Unsupported("the input does not fit the weight");
    shape.cell = cell_;
    shape.hidden = static_cast<int32_t>(hidden_);
    operands(in);
    weights(x, w, r);
    results(in);
  }

 private:
  void attributes() {
    const std::string direction = lower_case(attr_string(node_, "direction", "forward"));
    if (direction != "forward" && direction != "reverse" && direction != "bidirectional") throw Unsupported("direction '" + direction + "'");
    kernels::RecurrentShape& shape = spec_->shape;
    shape.directions = direction == "bidirectional" ? 2 : 1;
    shape.reverse = direction == "reverse";
    shape.reset_after = cell_ == Cell::gru && attr_int(node_, "linear_before_reset", 0) != 0;
    const std::vector<std::string> once = lstm_                  ? std::vector<std::string>{"sigmoid", "tanh", "tanh"}
                                          : cell_ == Cell::gru ? std::vector<std::string>{"sigmoid", "tanh"}
                                                               : std::vector<std::string>{"tanh"};
    std::vector<std::string> expected = once;
    if (shape.directions == 2) expected.insert(expected.end(), once.begin(), once.end());
    std::vector<std::string> stated = attr_strings(node_, "activations");
    for (std::string& name : stated) name = lower_case(name);
    // The standard's default for RNN names both directions, even where there is one.
    if (cell_ == Cell::rnn && stated.size() > expected.size()) stated.resize(expected.size());
    if (!stated.empty() && stated != expected) throw Unsupported("activations other than the usual ones");
    if (has_attr(node_, "clip")) throw Unsupported("its gates are clipped");
    if (attr_int(node_, "input_forget", 0) != 0) throw Unsupported("input and forget gate are coupled");
    if (attr_int(node_, "layout", 0) != 0) throw Unsupported("the batch is the first axis");
    if (Graph::input(node_, 7) >= 0) throw Unsupported("it has peepholes");
  }

  // What is known of such an operand. Nothing at all is stated in bodies of If whose inputs have open ranks:
  // the standard says the rest.
  Dims three_axes(int value, Dims otherwise) const {
    Dims& dims = context_.dims[static_cast<size_t>(value)];
    if (dims.empty()) {
      for (size_t i = 0; i < otherwise.size(); ++i)
        if (!otherwise[i].known()) otherwise[i] = Dim::named("?" + context_.graph.value(value).name + "." + std::to_string(i));
      dims = std::move(otherwise);
    }
    if (dims.size() != 3) throw Unsupported("an operand has not three axes");
    return dims;
  }

  Constant matrix(size_t i, const char* what) const {
    const Constant c = context_.weight(node_, i, what);
    if (c.desc.dims.size() != 3 || c.size() == 0) throw Unsupported(std::string(what) + " has not three axes");
    return c;
  }

  // Lengths and first states: constants, or operands of the operation.
  void operands(const Dims& in) {
    Op& op = unit_->op;
    op.in = {kBefore};
    const auto constant_batch = [&](int64_t batch) {
      if (batch < 1 || (spec_->batch > 0 && spec_->batch != batch)) throw Unsupported("constants for different numbers of sequences");
      if (in[1].known() && in[1].value != batch) throw Unsupported("a constant does not fit the number of sequences");
      spec_->batch = batch;
    };
    if (const int value = Graph::input(node_, 4); value >= 0) {
      const GraphValue& v = context_.graph.value(value);
      if (!v.ranked || v.desc.type != abi::kInt32 || v.desc.dims.size() != 1) throw Unsupported("the lengths are no list of int32");
      if (v.constant) {
        const Constant c = constant(v);
        const auto* lengths = static_cast<const int32_t*>(c.data);
        spec_->lengths.assign(lengths, lengths + c.size());
        constant_batch(c.size());
      } else {
        spec_->operands |= kLengths;
        op.in.push_back(value);
      }
    }
    const auto state = [&](size_t i, RecurrentOperand operand, std::vector<float>* constants) {
      const int value = Graph::input(node_, i);
      if (value < 0) return;
      if (!context_.graph.is_constant(value)) {
        spec_->operands |= operand;
        op.in.push_back(context_.activation(node_, i));
        three_axes(op.in.back(), {Dim::of(spec_->shape.directions), {}, Dim::of(hidden_)});
        return;
      }
      const Constant c = context_.weight(node_, i, "the first state");
      const Shape& dims = c.desc.dims;
      if (dims.size() != 3 || dims[0] != spec_->shape.directions || dims[2] != hidden_) throw Unsupported("a first state does not fit the weights");
      constant_batch(dims[1]);
      constants->assign(c.floats(), c.floats() + c.size());
    };
    state(5, kInitialH, &spec_->h);
    if (lstm_) state(6, kInitialC, &spec_->c);
  }

  void weights(int x, const Constant& w, const Constant& r) {
    const int64_t rows = spec_->width();
    unit_->before.emplace_back();
    Unit& sum = unit_->before.back();
    sum.op.kind = OpKind::conv;
    sum.op.label = unit_->op.label + " (inputs)";
    sum.op.in = {x};
    sum.op.geometry = geometry(inputs_, rows);
    sum.op.source = std::make_shared<WeightSource>();
    sum.op.source->bias = biases();
    sum.supported = true;
    sum.domains = bit(Domain::tokens);
    sum.dims = context_.of(x);
    sum.dims[2] = Dim::of(rows);
    give(w, inputs_, &sum);
    Op& op = unit_->op;
    op.kind = OpKind::recurrent;
    op.geometry = geometry(hidden_, rows);
    op.source = std::make_shared<WeightSource>();
    give(r, hidden_, unit_);
  }

  static kernels::ConvGeometry geometry(int64_t in, int64_t out) {
    if (in * out > INT32_MAX) throw Unsupported("the weight is too large");
    return kernels::matmul_geometry(static_cast<int32_t>(in), static_cast<int32_t>(out));
  }

  static void give(const Constant& c, int64_t columns, Unit* unit) {
    WeightInput input;
    input.dims = c.desc.dims;
    input.dense = c.floats();
    input.give(columns, 1, unit);
  }

  // Those of input and state together, where nothing comes between them.
  std::vector<float> biases() {
    const int64_t rows = int64_t{kernels::gates_of(cell_)} * hidden_, directions = spec_->shape.directions;
    if (Graph::input(node_, 3) < 0) return {};
    const Constant b = context_.weight(node_, 3, "the bias");
    if (b.desc.dims != Shape{directions, 2 * rows}) throw Unsupported("the bias does not fit the weights");
    std::vector<float> out;
    for (int64_t d = 0; d < directions; ++d) {
      const float *of_input = b.floats() + 2 * d * rows, *of_state = of_input + rows;
      for (int64_t i = 0; i < rows; ++i) {
        const bool apart = spec_->shape.reset_after && i >= 2 * hidden_;
        out.push_back(apart ? of_input[i] : of_input[i] + of_state[i]);
        if (apart) spec_->bias.push_back(of_state[i]);
      }
    }
    return out;
  }

  void results(const Dims& in) {
    Op& op = unit_->op;
    const Dim directions = Dim::of(spec_->shape.directions), hidden = Dim::of(hidden_);
    spec_->results = 0;
    std::vector<int> made;
    for (size_t i = 0; i < node_.out.size() && i < 3; ++i) {
      if (node_.out[i] < 0) continue;
      const GraphValue& value = context_.graph.value(node_.out[i]);
      if (!value.ranked || value.desc.type != abi::kFloat) throw Unsupported("an output is not float32");
      spec_->results |= static_cast<uint8_t>(1u << i);
      made.push_back(node_.out[i]);
    }
    if (made.empty()) throw Unsupported("it has no output");
    op.out = made[0];
    op.more.assign(made.begin() + 1, made.end());
    unit_->dims = spec_->results & kY ? Dims{in[0], directions, in[1], hidden} : Dims{directions, in[1], hidden};
    for (int value : op.more) context_.dims[static_cast<size_t>(value)] = {directions, in[1], hidden};
    unit_->domains = bit(Domain::tokens);
    op.recurrent = spec_;
  }

  const LowerContext& context_;
  const GraphNode& node_;
  Cell cell_;
  bool lstm_;
  Unit* unit_;
  std::shared_ptr<RecurrentSpec> spec_;
  int64_t inputs_ = 0, hidden_ = 0;
};

}  // namespace

bool lower_recurrent(const LowerContext& context, const GraphNode& node, Unit* unit) {
  if (!node.domain.empty()) return false;
  const bool lstm = node.op == "LSTM", gru = node.op == "GRU";
  if (!lstm && !gru && node.op != "RNN") return false;
  Layer(context, node, lstm ? Cell::lstm : gru ? Cell::gru : Cell::rnn, unit).run();
  return true;
}

}  // namespace onnxprune::ep
