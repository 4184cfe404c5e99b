#include "ep/build.h"

#include <unordered_map>

#include "ep/fuse.h"

namespace onnxprune::ep {

namespace {

// Units so that each comes after those that make what it reads. Most are: only a result that is not a unit's
// last may be read by nodes that come before the last.
std::vector<int> in_order(const Lowering& lowering, const std::vector<int>& chosen) {
  std::unordered_map<int, size_t> maker;  // by value: place in `chosen`
  for (size_t i = 0; i < chosen.size(); ++i)
    for (int v : results(lowering.units[static_cast<size_t>(chosen[i])])) maker.emplace(v, i);
  std::vector<int> out;
  std::vector<bool> begun(chosen.size(), false);
  // Depth first, without recursion: a unit is put down when all of its makers have been.
  for (size_t first = 0; first < chosen.size(); ++first) {
    std::vector<std::pair<size_t, bool>> open = {{first, false}};
    while (!open.empty()) {
      const auto [i, ready] = open.back();
      open.pop_back();
      if (ready) out.push_back(chosen[i]);
      if (ready || begun[i]) continue;
      begun[i] = true;
      open.emplace_back(i, true);
      for (int v : values_read(lowering.units[static_cast<size_t>(chosen[i])]))
        if (const auto known = maker.find(v); known != maker.end() && !begun[known->second]) open.emplace_back(known->second, false);
    }
  }
  return out;
}

}  // namespace

Program build_program(const Graph& graph, const Lowering& lowering, const std::vector<int>& chosen, Domain domain,
                      const std::vector<int>& inputs, const std::vector<int>& outputs) {
  Program program;
  program.domain = domain;
  std::unordered_map<int, int> local;  // graph value -> program value
  auto number = [&](int value) {
    auto [where, fresh] = local.emplace(value, program.value_count);
    if (fresh) ++program.value_count;
    return where->second;
  };
  // Quantised values enter and leave as integers. Lengths of sequences and masks stay what they are.
  const auto crosses = [&](int value, int inner, OpKind kind) {
    const GraphValue& v = graph.value(value);
    (kind == OpKind::decode ? program.input_types : program.output_types).push_back(v.desc.type);
    if (enters_as_is(v.desc.type)) return inner;
    const int outer = program.value_count++;
    Op op;
    op.kind = kind;
    op.label = v.name;
    op.in = {kind == OpKind::decode ? outer : inner};
    op.out = kind == OpKind::decode ? inner : outer;
    op.shift = {static_cast<float>(lowering.zeros[static_cast<size_t>(value)])};
    op.signs = v.desc.type == abi::kInt8;
    program.ops.push_back(std::move(op));
    return outer;
  };
  for (int value : inputs) {
    program.inputs.push_back(crosses(value, number(value), OpKind::decode));
    Shape shape;
    for (const Dim& dim : lowering.dims[static_cast<size_t>(value)]) shape.push_back(dim.value);
    program.input_shapes.push_back(std::move(shape));
  }
  const auto add = [&](Op op, int index, const std::vector<int>& before) {
    for (int& value : op.in) {
      if (value <= kBefore) {
        value = before[static_cast<size_t>(kBefore - value)];
        continue;
      }
      auto known = local.find(value);
      if (known == local.end())
        throw abi::Error("onnxprune: '" + graph.value(value).name + "' is read before it is made");
      value = known->second;
    }
    op.out = op.out >= 0 ? number(op.out) : program.value_count++;
    for (int& value : op.more) value = number(value);
    op.units = {index};
    program.ops.push_back(std::move(op));
    return program.ops.back().out;
  };
  for (int index : in_order(lowering, chosen)) {
    const Unit& unit = lowering.units[static_cast<size_t>(index)];
    std::vector<int> before;
    for (const Unit& part : unit.before) before.push_back(add(part.op, index, before));
    const size_t first = program.ops.size();
    add(unit.op, index, before);
    for (const Unit::Also& also : unit.also) add(also.op, index, before);
    for (size_t i = first; i < program.ops.size(); ++i)
      for (int node : unit.nodes) program.ops[i].nodes.push_back(graph.label(graph.node(node)));
  }
  for (int value : outputs) {
    program.outputs.push_back(crosses(value, number(value), OpKind::encode));
    program.output_ranks.push_back(static_cast<int>(lowering.dims[static_cast<size_t>(value)].size()));
  }
  fuse(&program);
  skip_unread(&program);
  for (Op& op : program.ops)
    if (op.has_weight()) op.digest = weight_digest(op);
  return program;
}

}  // namespace onnxprune::ep
