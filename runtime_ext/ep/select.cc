#include "ep/select.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ep/machine.h"
#include "ep/mincut.h"

namespace onnxprune::ep {
namespace {

// A claim must be predicted to save this share of what it replaces, and this much at all: estimates
// are not exact, and a group costs a call.
constexpr double kLeastShare = 0.15;
constexpr double kLeastCycles = 3000;
constexpr double kNever = 1e15;

size_t at(int i) { return static_cast<size_t>(i); }

bool makes(const Unit& unit, int value) {
  const std::vector<int> values = results(unit);
  return std::find(values.begin(), values.end(), value) != values.end();
}

class Selector {
 public:
  Selector(const Graph& graph, const Lowering& lowering, const Options& options, const std::vector<Scene>& scenes)
      : graph_(graph), lowering_(lowering), options_(options), scenes_(scenes), count_(static_cast<int>(lowering.units.size())) {
    result_.reasons.resize(at(count_));
    ours_.resize(at(count_), 0);
    cpu_.resize(at(count_), 0);
    edges();
    for (int u = 0; u < count_; ++u) {
      if (!unit(u).supported) {
        result_.reasons[at(u)] = unit(u).reason;
        continue;
      }
      for (const Scene& scene : scenes) {
        const bool known = !scene.measured.empty() && scene.measured[at(u)] >= 0;
        ours_[at(u)] += scene.weight * (known ? scene.measured[at(u)] : scene.costs.ours(graph, lowering, unit(u)));
        timed_ |= known;
        cpu_[at(u)] += scene.weight * scene.costs.cpu(graph, lowering, unit(u));
      }
    }
  }

  Selection run() {
    std::vector<std::vector<int>> groups = options_.regions ? regions() : chains();
    for (auto& members : groups) judge(members);
    std::sort(result_.groups.begin(), result_.groups.end(),
              [](const Group& a, const Group& b) { return a.units.front() < b.units.front(); });
    for (int u = 0; u < count_; ++u)
      if (!claimed_[at(u)] && result_.reasons[at(u)].empty()) result_.reasons[at(u)] = explain(u);
    return std::move(result_);
  }

 private:
  const Unit& unit(int u) const { return lowering_.units[at(u)]; }
  int unit_of(int node) const { return lowering_.unit_of[at(node)]; }
  bool useful(int u) const {
    return unit(u).anchor && (options_.force || unit(u).packed || unit(u).sparsity >= options_.min_sparsity);
  }

  // The sum of a cost over all scenes.
  template <typename Cost>
  double total(Cost cost) const {
    double sum = 0;
    for (const Scene& scene : scenes_) sum += scene.weight * cost(scene.costs);
    return sum;
  }
  double border(int value, uint8_t domains) const {
    return total([&](const CostModel& costs) { return costs.border(lowering_, value, domains); });
  }
  double estranged(const Unit& of, int value) const {
    return total([&](const CostModel& costs) { return costs.estranged(graph_, lowering_, of, value); });
  }

  // Units that make and read each unit's values.
  void edges() {
    readers_.resize(at(count_));
    makers_.resize(at(count_));
    claimed_.assign(at(count_), false);
    for (const GraphValue& value : graph_.values()) {
      if (value.producer < 0) continue;
      const int from = unit_of(value.producer);
      for (int consumer : value.consumers) {
        const int to = unit_of(consumer);
        if (to == from) continue;
        readers_[at(from)].push_back(to);
        makers_[at(to)].push_back(from);
      }
    }
    for (auto* lists : {&readers_, &makers_}) {
      for (auto& list : *lists) {
        std::sort(list.begin(), list.end());
        list.erase(std::unique(list.begin(), list.end()), list.end());
      }
    }
  }

  // Reads that nobody in this graph does: graph outputs, subgraphs.
  bool read_elsewhere(int value) const {
    const GraphValue& v = graph_.value(value);
    return v.graph_output || v.uses > v.consumers.size();
  }

  // ---- minimum cut: source side = claimed ----------------------------------------------------
  std::vector<bool> cut() {
    MinCut flow(2 + count_);
    auto node = [](int u) { return 2 + u; };
    for (int u = 0; u < count_; ++u) {
      const bool possible = unit(u).supported;
      // On the sink side a unit costs what the CPU takes, on the source side what we take.
      double stay = possible ? cpu_[at(u)] : 0;
      double take = possible ? ours_[at(u)] : kNever;
      if (possible && (options_.force || unit(u).packed)) stay = kNever;
      // What fuses into a claimed producer costs nothing there, but is a pass of its own on the CPU.
      if (possible && scenes_[0].costs.fuses(graph_, lowering_, unit(u))) {
        const double pass = total([&](const CostModel& costs) { return costs.pass(unit(u)); });
        for (int maker : makers_[at(u)]) flow.add_edge(node(maker), node(u), pass);
      }
      if (stay > 0) flow.add_edge(MinCut::kSource, node(u), stay);
      for (int other : unit(u).together) flow.add_edge(node(u), node(other), kNever);
      if (take > 0) flow.add_edge(node(u), MinCut::kSink, take);
    }
    for (int v = 0; v < static_cast<int>(graph_.values().size()); ++v) {
      const GraphValue& value = graph_.value(v);
      if (value.constant || (value.consumers.empty() && value.producer < 0)) continue;
      const int maker = value.producer < 0 ? -1 : unit_of(value.producer);
      if (maker >= 0 && !makes(unit(maker), v) && unit(maker).supported) continue;  // inside a unit
      const uint8_t made_as = maker >= 0 && unit(maker).supported ? unit(maker).domains : 0;
      std::vector<int> here, apart;  // readers that can share the maker's view, and others
      for (int consumer : value.consumers) {
        const int reader = unit_of(consumer);
        if (!unit(reader).supported) continue;
        (unit(reader).domains & made_as ? here : apart).push_back(reader);
      }
      std::sort(here.begin(), here.end());
      here.erase(std::unique(here.begin(), here.end()), here.end());
      // A neighbour that changes sides.
      for (int reader : here) {
        if (const double loss = estranged(unit(reader), v); loss > 0 && maker >= 0) flow.add_edge(node(maker), node(reader), loss);
        if (const double loss = maker >= 0 ? estranged(unit(maker), v) : 0; loss > 0) flow.add_edge(node(reader), node(maker), loss);
      }
      // What is left out of the middle of a region makes two of it: a value that changes sides inside the graph
      // costs as much as a call.
      const double crossing = maker >= 0 ? total([](const CostModel&) { return CostModel::call(); }) : 0;
      // Leaving: paid once when the maker is claimed and any reader is not.
      if (made_as) {
        const double cost = border(v, made_as) + crossing;
        const bool always = read_elsewhere(v) || here.size() != readers_of(value).size();
        if (always) {
          flow.add_edge(node(maker), MinCut::kSink, cost);
        } else if (cost > 0) {
          const int leave = flow.add_node();
          flow.add_edge(node(maker), leave, cost);
          for (int reader : here) flow.add_edge(leave, node(reader), kNever);
        }
      }
      // Entering: paid once when any reader is claimed and the maker is not.
      const double from_outside = apart.empty() ? 0 : border(v, unit(apart[0]).domains) + crossing;
      if (from_outside > 0) {
        const int enter = flow.add_node();
        for (int reader : apart) flow.add_edge(node(reader), enter, kNever);
        flow.add_edge(enter, MinCut::kSink, from_outside);
      }
      if (!here.empty()) {
        const double cost = border(v, unit(here[0]).domains) + crossing;
        if (cost > 0) {
          const int enter = flow.add_node();
          for (int reader : here) flow.add_edge(node(reader), enter, kNever);
          flow.add_edge(enter, node(maker), cost);
        }
      }
    }
    std::vector<bool> side = flow.source_side();
    std::vector<bool> out(at(count_), false);
    for (int u = 0; u < count_; ++u) out[at(u)] = side[at(node(u))] && unit(u).supported;
    return out;
  }

  std::vector<int> readers_of(const GraphValue& value) const {
    std::vector<int> out;
    for (int consumer : value.consumers) out.push_back(unit_of(consumer));
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  // ---- groups ---------------------------------------------------------------------------------
  // Disjoint sets of units; each will be one node of the fused graph.
  struct Partition {
    std::vector<int> of;                    // by unit, -1 = on its own
    std::vector<std::vector<int>> members;
  };

  // True when no path leaves the set and comes back. Other sets count as single nodes: a path may enter
  // at one member and leave from any other.
  bool convex(const std::vector<int>& set, const Partition& parts) const {
    std::vector<bool> member(at(count_), false), seen(at(count_), false);
    for (int u : set) member[at(u)] = true;
    std::vector<int> stack;
    bool returned = false;
    auto reach = [&](int u) {
      for (int r : readers_[at(u)]) {
        if (member[at(r)]) {
          returned = true;
        } else if (!seen[at(r)]) {
          const int part = parts.of[at(r)];
          if (part < 0) seen[at(r)] = true, stack.push_back(r);
          else
            for (int m : parts.members[at(part)]) seen[at(m)] = true, stack.push_back(m);
        }
      }
    };
    for (int u : set) reach(u);
    returned = false;  // reads among members are no return
    while (!stack.empty() && !returned) {
      const int u = stack.back();
      stack.pop_back();
      reach(u);
    }
    return !returned;
  }

  // Joins claimed neighbours as long as the union stays convex and has a common view.
  std::vector<std::vector<int>> join(const std::vector<bool>& wanted) {
    Partition parts;
    parts.of.assign(at(count_), -1);
    std::vector<uint8_t> views;
    for (int u = 0; u < count_; ++u) {
      if (!wanted[at(u)]) continue;
      parts.of[at(u)] = static_cast<int>(parts.members.size());
      parts.members.push_back({u});
      views.push_back(unit(u).domains);
    }
    for (int u = 0; u < count_; ++u) {
      if (parts.of[at(u)] < 0) continue;
      for (int maker : makers_[at(u)]) {
        const int a = parts.of[at(maker)], b = parts.of[at(u)];
        if (a < 0 || a == b || (views[at(a)] & views[at(b)]) == 0) continue;
        std::vector<int> both = parts.members[at(a)];
        both.insert(both.end(), parts.members[at(b)].begin(), parts.members[at(b)].end());
        if (!convex(both, parts)) continue;
        for (int m : parts.members[at(b)]) parts.of[at(m)] = a;
        parts.members[at(a)] = std::move(both);
        parts.members[at(b)].clear();
        views[at(a)] &= views[at(b)];
      }
    }
    std::vector<std::vector<int>> out;
    for (auto& list : parts.members) {
      if (list.empty()) continue;
      std::sort(list.begin(), list.end());
      out.push_back(std::move(list));
    }
    return out;
  }

  std::vector<std::vector<int>> regions() {
    std::vector<bool> wanted = cut();
    for (;;) {
      std::vector<std::vector<int>> groups = join(wanted);
      std::vector<int> of(at(count_), -1);
      for (size_t g = 0; g < groups.size(); ++g)
        for (int u : groups[g]) of[at(u)] = static_cast<int>(g);
      // What belongs together must have come together.
      bool whole = true;
      for (int u = 0; u < count_; ++u) {
        for (int other : unit(u).together) {
          if (of[at(u)] < 0 || of[at(u)] == of[at(other)]) continue;
          wanted[at(u)] = wanted[at(other)] = whole = false;
        }
      }
      if (whole) return groups;
    }
  }

  // One anchor with the activations and additions that disappear into it.
  std::vector<std::vector<int>> chains() {
    Partition parts;
    parts.of.assign(at(count_), -1);
    for (int u = 0; u < count_; ++u) {
      if (!unit(u).supported || !useful(u) || parts.of[at(u)] >= 0) continue;
      const int self = static_cast<int>(parts.members.size());
      parts.of[at(u)] = self;
      parts.members.push_back({u});
      uint8_t views = unit(u).domains;
      bool added = false;
      for (int last = u;;) {
        if (readers_[at(last)].size() != 1 || read_elsewhere(unit(last).op.out)) break;
        const int next = readers_[at(last)][0];
        const Unit& n = unit(next);
        const bool sum = n.op.kind == OpKind::binary && n.op.binary == kernels::Binary::add && n.op.fit != Fit::different && !added;
        const bool point = n.op.kind == OpKind::pointwise || n.op.kind == OpKind::affine ||
                           (n.op.kind == OpKind::reshape && !n.op.target.empty());
        if (!n.supported || parts.of[at(next)] >= 0 || !(sum || point) || (n.domains & views) == 0) break;
        std::vector<int> longer = parts.members[at(self)];
        longer.push_back(next);
        if (!convex(longer, parts)) break;
        parts.members[at(self)] = std::move(longer);
        parts.of[at(next)] = self;
        views &= n.domains;
        added |= sum;
        last = next;
      }
    }
    for (auto& list : parts.members) std::sort(list.begin(), list.end());
    return parts.members;
  }

  void judge(const std::vector<int>& members) {
    Group group;
    group.units = members;
    group.ours = total([](const CostModel&) { return CostModel::call(); });
    uint8_t views = kAnyDomain;
    bool worthwhile = false, sure = options_.force;
    for (int u : members) {
      views &= unit(u).domains;
      group.ours += ours_[at(u)];
      group.cpu += cpu_[at(u)];
      worthwhile |= useful(u);
      sure |= unit(u).packed;
    }
    group.domain = views & static_cast<uint8_t>(Domain::tokens)  ? Domain::tokens
                   : views & static_cast<uint8_t>(Domain::image) ? Domain::image
                                                                 : Domain::left;
    std::vector<int> inputs, outputs;
    group_borders(graph_, lowering_, members, &inputs, &outputs);
    for (int v : inputs) {
      // Images of a batch are run one by one: their number changes nothing.
      const Dims& dims = lowering_.dims[at(v)];
      for (size_t axis = group.domain == Domain::image ? 1 : 0; axis < dims.size(); ++axis) group.open |= !dims[axis].known();
    }
    for (int v : inputs) group.ours += border(v, static_cast<uint8_t>(group.domain));
    for (int v : outputs) group.ours += border(v, static_cast<uint8_t>(group.domain));
    group.ours += estranged(members, inputs, outputs);
    const double saved = group.cpu - group.ours;
    std::string reason;
    if (!worthwhile) {
      reason = "no weight near it is sparse enough";
    } else if (!sure && (saved < kLeastCycles || saved < kLeastShare * group.cpu)) {
      reason = slower(group.ours, group.cpu);
    }
    for (int u : members) {
      claimed_[at(u)] = reason.empty();
      if (!reason.empty() && !(unit(u).anchor && !useful(u))) result_.reasons[at(u)] = reason;
    }
    if (reason.empty()) result_.groups.push_back(std::move(group));
  }

  // What neighbours of the group lose that stay with the CPU provider.
  double estranged(const std::vector<int>& members, const std::vector<int>& inputs, const std::vector<int>& outputs) const {
    double loss = 0;
    for (int v : inputs)
      if (const int maker = graph_.value(v).producer; maker >= 0) loss += estranged(unit(unit_of(maker)), v);
    for (int v : outputs)
      for (int reader : readers_of(graph_.value(v)))
        if (std::find(members.begin(), members.end(), reader) == members.end()) loss += estranged(unit(reader), v);
    return loss;
  }

  std::string slower(double ours, double cpu) const {
    char text[160];
    std::snprintf(text, sizeof text, "%s %.1f us with layout changes against %.1f us on the CPU provider",
                  timed_ ? "measured" : "predicted", ours / cycles_per_microsecond(), cpu / cycles_per_microsecond());
    return text;
  }

  std::string explain(int u) const {
    const Unit& x = unit(u);
    if (!x.anchor) return "not next to a claimed node that gains from it";
    if (x.sparsity < options_.min_sparsity) {
      char text[120];
      std::snprintf(text, sizeof text, "its weight is %.1f %% zero, below min_sparsity %.1f %%",
                    100 * x.sparsity, 100 * options_.min_sparsity);
      return text;
    }
    double total = ours_[at(u)];
    for (int v : values_read(x)) total += border(v, x.domains);
    for (int v : results(x)) total += border(v, x.domains);
    return slower(total, cpu_[at(u)]);
  }

  const Graph& graph_;
  const Lowering& lowering_;
  const Options& options_;
  const std::vector<Scene>& scenes_;
  int count_;
  std::vector<double> ours_, cpu_;
  std::vector<std::vector<int>> readers_, makers_;
  std::vector<bool> claimed_;
  bool timed_ = false;
  Selection result_;
};

}  // namespace

Selection select(const Graph& graph, const Lowering& lowering, const Options& options, const std::vector<Scene>& scenes) {
  return Selector(graph, lowering, options, scenes).run();
}

void group_borders(const Graph& graph, const Lowering& lowering, const std::vector<int>& units,
                   std::vector<int>* inputs, std::vector<int>* outputs) {
  std::vector<bool> member(lowering.units.size(), false);
  for (int u : units) member[at(u)] = true;
  auto inside = [&](int node) { return node >= 0 && member[at(lowering.unit_of[at(node)])]; };
  for (int u : units) {
    const Unit& unit = lowering.units[at(u)];
    for (int v : values_read(unit))
      if (!inside(graph.value(v).producer) && std::find(inputs->begin(), inputs->end(), v) == inputs->end())
        inputs->push_back(v);
    for (int v : results(unit)) {
      const GraphValue& out = graph.value(v);
      bool leaves = out.graph_output || out.uses > out.consumers.size();
      for (int consumer : out.consumers) leaves |= !inside(consumer);
      if (leaves) outputs->push_back(v);
    }
  }
}

}  // namespace onnxprune::ep
