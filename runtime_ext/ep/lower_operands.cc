#include "ep/lower_operands.h"

#include <algorithm>

namespace onnxprune::ep {

int OperandParts::add(Unit unit) {
  unit.domains = bit(Domain::tokens);
  unit.supported = true;
  unit.op.label = graph_.value(unit.op.out >= 0 ? unit.op.out : unit.op.in[0]).name;
  const int made = unit.op.out;
  units_.push_back(std::move(unit));
  return made >= 0 ? made : kBefore - static_cast<int>(units_.size()) + 1;
}

namespace {

// Cosines and sines as planes of all positions.
SumsSpec::Table all_positions(const Graph& graph, const Lookup& lookup) {
  SumsSpec::Table out;
  for (int value : {lookup.cos, lookup.sin}) {
    const Constant c = constant(graph.value(value));
    const int64_t planes = c.desc.dims[1];
    out.tokens = c.desc.dims[0];
    if (c.size() == 0) throw Unsupported("an empty table");
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t t = 0; t < out.tokens; ++t) out.planes.push_back(c.floats()[t * planes + p]);
  }
  return out;
}

// The rows of constant positions.
SumsSpec::Table constant_rows(const Graph& graph, const Lookup& lookup) {
  const SumsSpec::Table all = all_positions(graph, lookup);
  const Constant c = constant(graph.value(lookup.positions));
  if (c.size() == 0) throw Unsupported("no positions");
  std::vector<int64_t> positions(c.ints(), c.ints() + c.size());
  for (int64_t t = 1; t < lookup.tokens; ++t) positions.push_back(positions[0] + t);
  SumsSpec::Table out{static_cast<int64_t>(positions.size()), {}};
  for (size_t p = 0; p < all.planes.size(); p += static_cast<size_t>(all.tokens))
    for (int64_t at : positions) {
      if (at < 0 || at >= all.tokens) throw Unsupported("a position that the table does not have");
      out.planes.push_back(all.planes[p + static_cast<size_t>(at)]);
    }
  return out;
}

}  // namespace

int OperandParts::looked_up(const Lookup& lookup) {
  auto spec = std::make_shared<SumsSpec>();
  spec->tables.push_back(all_positions(graph_, lookup));
  Unit unit;
  unit.op.kind = OpKind::lookup;
  unit.op.in = {lookup.positions};
  unit.dims = context_.of(lookup.positions);
  unit.dims.push_back(Dim::of(static_cast<int64_t>(spec->tables[0].planes.size()) / spec->tables[0].tokens));
  unit.op.sums = std::move(spec);
  return add(std::move(unit));
}

int OperandParts::planes(const Woven& w) {
  if (w.plain()) {
    const auto other = replaced_.find(w.traced.source);
    return other == replaced_.end() ? w.traced.source : other->second;
  }
  for (const auto& [known, value] : made_)
    if (known.traced.source == w.traced.source && known.planes == w.planes) return value;
  auto spec = std::make_shared<SumsSpec>();
  Unit unit;
  unit.op.kind = OpKind::sums;
  unit.op.in = {w.traced.source};
  // Constant tables come after all values.
  std::map<int, int32_t> numbers = {{w.traced.source, 0}}, tables;
  for (const auto& terms : w.planes)
    for (const Product& term : terms)
      for (int v : {term.a, term.b}) {
        if (v == -1 || numbers.count(v) != 0 || tables.count(v) != 0) continue;
        if (v <= kLookup) {
          const Lookup& lookup = weaver_.lookups()[static_cast<size_t>(kLookup - v)];
          if (graph_.is_constant(lookup.positions)) {
            tables.emplace(v, static_cast<int32_t>(tables.size()));
            spec->tables.push_back(constant_rows(graph_, lookup));
            continue;
          }
          auto [known, fresh] = looked_up_.emplace(kLookup - v, 0);
          if (fresh) known->second = looked_up(lookup);
          numbers.emplace(v, static_cast<int32_t>(unit.op.in.size()));
          unit.op.in.push_back(known->second);
          continue;
        }
        if (graph_.is_constant(v)) {
          tables.emplace(v, static_cast<int32_t>(tables.size()));
          const Constant c = constant(graph_.value(v));
          const int64_t planes = c.desc.dims.back(), tokens = c.size() / std::max<int64_t>(planes, 1);
          if (c.size() == 0) throw Unsupported("an empty table");
          SumsSpec::Table table{tokens, std::vector<float>(static_cast<size_t>(c.size()))};
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t p = 0; p < planes; ++p) table.planes[static_cast<size_t>(p * tokens + t)] = c.floats()[t * planes + p];
          spec->tables.push_back(std::move(table));
        } else {
          numbers.emplace(v, static_cast<int32_t>(unit.op.in.size()));
          unit.op.in.push_back(v);
        }
      }
  const auto number = [&](int v) {
    if (v == -1) return -1;
    const auto known = numbers.find(v);
    return known != numbers.end() ? known->second : static_cast<int32_t>(unit.op.in.size()) + tables.at(v);
  };
  spec->starts = {0};
  for (const auto& terms : w.planes) {
    for (const Product& term : terms)
      spec->terms.push_back({number(term.a), term.a_plane, number(term.b), term.b_plane, static_cast<float>(term.factor)});
    spec->starts.push_back(static_cast<int32_t>(spec->terms.size()));
  }
  // Where all tokens are on one axis they are cut by numbers, which the weaver has compared.
  const Dims& whole = context_.of(w.traced.source);
  if (whole.size() == 2 && whole[0].known()) spec->sequence = 1;
  check_sums(*spec, unit.op.in.size());
  unit.op.sums = std::move(spec);
  unit.dims = context_.of(w.traced.source);
  unit.dims.back() = Dim::of(static_cast<int64_t>(w.planes.size()));
  made_.emplace_back(w, add(std::move(unit)));
  return made_.back().second;
}

// `w` as one part of a tensor that has its axes.
bool OperandParts::part(const Woven& w, SpreadSpec::Part* part) {
  const auto sizes = weaver_.sizes(w);
  if (!sizes || !weaver_.whole(w) || w.traced.scale != 1.0) return false;
  const auto features = weaver_.features(w, *sizes);
  if (!features) return false;
  part->sizes = *sizes;
  part->features = *features;
  std::vector<size_t> lead;
  for (size_t i = 0; i < w.traced.axes.size(); ++i) {
    const Atoms& atoms = w.traced.axes[i];
    const bool tokens = std::any_of(atoms.begin(), atoms.end(), [&](const Atom& a) { return w.lead(a); });
    if (tokens && atoms.size() != 1) return false;
    if (tokens) lead.push_back(i);
    part->roles.push_back((*sizes)[i] > 1 ? SpreadSpec::feature : SpreadSpec::one);
  }
  if (lead.size() > 2) return false;
  part->tokens = 0;  // all of them on one axis, or none
  if (!lead.empty()) part->roles[lead.back()] = SpreadSpec::token;
  if (lead.size() < 2) return true;
  part->roles[lead[0]] = SpreadSpec::batch;
  const Atom& token = w.traced.axes[lead[1]][0];
  part->tokens = token.size.known() ? token.size.value : -1;
  return token.size.known() || token.axis == w.feature_axis() - 1;
}

int OperandParts::cache(const Woven& w, const AttentionSpec::Axes& axes) {
  const int value = w.traced.source, producer = graph_.value(value).producer;
  if (std::find(shown_.begin(), shown_.end(), value) != shown_.end() || producer < 0) return value;
  const GraphNode& node = graph_.node(producer);
  if (node.op != "Concat" || !node.domain.empty()) return value;
  int64_t axis = attr_int(node, "axis", 0);
  const int64_t rank = static_cast<int64_t>(w.traced.offset.size());
  if (axis < 0) axis += rank;
  if (axis != axes.token) return value;
  SpreadSpec spec;
  spec.axis = static_cast<int32_t>(axis);
  std::vector<int> in;
  bool any = false;
  for (int v : node.in) {
    if (v < 0 || graph_.is_constant(v)) return value;
    SpreadSpec::Part in_planes;
    const auto nodes = tracer_.nodes();
    // Planes, if heads and features are their features; anything else is read as it is.
    const auto woven = weaver_.weave(v);
    bool fits = woven && static_cast<int64_t>(woven->traced.axes.size()) == rank && !graph_.is_constant(woven->traced.source) && part(*woven, &in_planes);
    for (size_t i = 0; fits && i < in_planes.roles.size(); ++i) {
      const bool feature = static_cast<int32_t>(i) == axes.head || static_cast<int32_t>(i) == axes.feature;
      fits = in_planes.roles[i] == SpreadSpec::one || (in_planes.roles[i] == SpreadSpec::feature) == feature;
    }
    // A tensor by itself gains nothing from being read in planes.
    fits = fits && (!woven->plain() || woven->traced.source != v);
    if (!fits) {
      tracer_.restore(nodes);
      in.push_back(v);
      spec.parts.emplace_back();
      continue;
    }
    any = true;
    in.push_back(planes(*woven));
    spec.parts.push_back(std::move(in_planes));
  }
  if (!any) return value;
  tracer_.include(producer);
  return add_shown(std::move(spec), std::move(in), value);
}

int OperandParts::add_shown(SpreadSpec spec, std::vector<int> in, int value) {
  check_spread(spec);
  Unit unit;
  unit.op.kind = OpKind::spread;
  unit.op.in = std::move(in);
  unit.op.spread = std::make_shared<const SpreadSpec>(std::move(spec));
  unit.op.out = value;
  unit.dims = context_.of(value);
  shown_.push_back(value);
  return add(std::move(unit));
}

void OperandParts::add_first(const Woven& w, std::vector<float> bias) {
  const int value = w.traced.source;
  if (!w.plain() || replaced_.count(value) != 0) throw Unsupported("a bias of an operand that is not one by itself");
  Unit unit;
  unit.op.kind = OpKind::affine;
  unit.op.in = {value};
  unit.op.shift = std::move(bias);
  unit.dims = context_.of(value);
  replaced_.emplace(value, add(std::move(unit)));
}

void OperandParts::append(int present, int past, const Woven& added) {
  SpreadSpec spec;
  std::vector<int> in;
  if (past >= 0) {
    spec.axis = 2;
    spec.parts.emplace_back();
    in.push_back(past);
  }
  spec.parts.emplace_back();
  if (!part(added, &spec.parts.back())) throw Unsupported("what is put into a cache has other axes than tokens and features");
  in.push_back(planes(added));
  add_shown(std::move(spec), std::move(in), present);
}

// Whether something that reads `value` outside of the collected nodes leads back to one of them.
bool OperandParts::follows_itself(int value) const {
  std::vector<int> open = {value};
  std::vector<bool> seen(graph_.nodes().size(), false);
  while (!open.empty()) {
    const int v = open.back();
    open.pop_back();
    for (int reader : graph_.value(v).consumers) {
      const bool mine = tracer_.nodes().count(reader) != 0;
      if (mine && v != value) return true;
      if (mine || seen[static_cast<size_t>(reader)]) continue;
      seen[static_cast<size_t>(reader)] = true;
      for (int out : graph_.node(reader).out)
        if (out >= 0) open.push_back(out);
    }
  }
  return false;
}

std::set<int> OperandParts::shared_tables(std::vector<int> operands) const {
  for (const auto& [woven, value] : made_) operands.push_back(woven.traced.source);
  for (const Unit& unit : units_)
    if (unit.op.kind == OpKind::spread) operands.insert(operands.end(), unit.op.in.begin(), unit.op.in.end());
  const auto leads_back = [&](int value) {
    std::vector<int> open = {value};
    while (!open.empty()) {
      const int v = open.back();
      open.pop_back();
      if (std::find(operands.begin(), operands.end(), v) != operands.end()) return true;
      const int maker = graph_.value(v).producer;
      if (maker < 0 || tracer_.nodes().count(maker) == 0) continue;
      for (int in : graph_.node(maker).in)
        if (in >= 0) open.push_back(in);
    }
    return false;
  };
  std::set<int> out;
  for (int v : tracer_.read_elsewhere())
    if (!leads_back(v)) out.insert(v);
  return out;
}

bool OperandParts::show(int last) {
  for (int v : tracer_.read_elsewhere()) {
    if (graph_.value(v).producer == last) continue;
    if (std::find(shown_.begin(), shown_.end(), v) == shown_.end()) {
      // Keys that leave as they are attended to.
      const auto nodes = tracer_.nodes();
      const auto woven = weaver_.weave(v);
      tracer_.restore(nodes);
      SpreadSpec spec;
      spec.parts.emplace_back();
      if (!woven || woven->traced.source == v || graph_.is_constant(woven->traced.source) || !part(*woven, &spec.parts[0])) return false;
      const int made = planes(*woven);
      add_shown(std::move(spec), {made}, v);
    }
    if (follows_itself(v)) return false;
  }
  return true;
}

std::vector<int> OperandParts::read() const {
  std::vector<int> out(shown_);
  for (const Unit& unit : units_)
    for (int v : unit.op.in)
      if (v >= 0) out.push_back(v);
  return out;
}

}  // namespace onnxprune::ep
