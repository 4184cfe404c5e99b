// Shared by the instance*.cc files: turns the operations of a program into steps.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ep/instance.h"
#include "ep/shapes.h"

namespace onnxprune::ep {

using kernels::PlaneLayout;

// One function an operator family, in a file of its own; `instance.cc` holds what is common.
class InstanceBuilder {
 public:
  InstanceBuilder(const Program& program, const std::vector<Shape>& shapes, const InstanceOptions& options,
                  Instance* instance)
      : program_(program),
        options_(options),
        instance_(instance),
        shapes_(infer_shapes(program, shapes)),
        plan_(plan_layouts(program, shapes_)),
        places_(program, plan_) {}

  void build();

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  static size_t at64(int64_t i) { return static_cast<size_t>(i); }
  ValuePlan& value(int v) { return plan_.values[at(v)]; }
  const PlaneLayout& layout(int v, Form form) const { return plan_.values[at(v)].forms.at(form); }
  int32_t channels(int v) { return static_cast<int32_t>(value(v).view.channels); }
  // A handle that will hold the value's place once memory is laid out; notes the use by the next step.
  std::shared_ptr<Place> use(int v, Form form) {
    return places_.use(v, form, static_cast<int>(instance_->steps_.size()));
  }

  template <typename Body>
  Step& add(const std::string& label, const std::string& kernel, int64_t items, double cycles, Body body) {
    Step step;
    step.label = label;
    step.kernel = kernel;
    step.items = items;
    step.cycles = cycles;
    step.units = units_;
    step.body = std::move(body);
    instance_->steps_.push_back(std::move(step));
    return instance_->steps_.back();
  }

  // Moving data costs about a cycle for every four floats.
  static double moving(int64_t floats) { return 0.25 * static_cast<double>(floats); }
  // ... of which curved activations need more.
  static double pointwise_cost(const Op& op, int64_t floats) {
    return moving(3 * floats) * (op.epilogue.activation > kernels::Activation::clip ? 8 : 1);
  }

  void emit_copy(int v, const Place& place);
  std::string name_of(int v) const;
  void convert_from(int v, Form source);
  void emit_conversion(int v, Form source, Form target);
  bool same_bytes(Form source, const PlaneLayout& from, Form target, const PlaneLayout& to) const;
  void plan_kernels();
  void emit(const Op& op, const OpPlan& o);
  void emit_conv(const Op& op, const OpPlan& o);
  void emit_pool(const Op& op, const OpPlan& o);
  void emit_reshape(const Op& op, Form form);
  void emit_concat(const Op& op, Form form);
  void emit_resize(const Op& op);
  void emit_interleave(const Op& op);
  void emit_pick(const Op& op, Form form);
  void emit_pointwise(const Op& op, Form form);
  void emit_broadcast(const Op& op, Form form);
  void emit_global_pool(const Op& op);
  void emit_response_norm(const Op& op, Form form);
  void emit_group_norm(const Op& op, Form form);
  void emit_quantised_sum(const Op& op, Form form);
  void emit_crossing(const Op& op);
  void emit_norm(const Op& op, Form form);
  void emit_attention(const Op& op, Form form);
  void emit_sums(const Op& op, Form form);
  void emit_lookup(const Op& op, Form form);
  void emit_spread(const Op& op);
  void emit_recurrent(const Op& op);
  void lay_out();

  const Program& program_;
  const InstanceOptions& options_;
  Instance* instance_;
  std::vector<Shape> shapes_;  // of all values
  LayoutPlan plan_;
  Places places_;
  std::vector<std::shared_ptr<const kernels::Plan>> plans_;  // by operation, until its step is made
  std::vector<int> units_;  // of the operation being emitted
};

}  // namespace onnxprune::ep
