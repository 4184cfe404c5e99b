#include "ep/decide.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <limits>
#include <stdexcept>

#include "ep/executor.h"
#include "ep/machine.h"

namespace onnxprune::ep {
namespace {

// Time that it may spend on running what is too close to call, microseconds: as long as packing took, so
// that making a session stays in proportion to the model, but within these.
constexpr double kMeasureLeast = 10000, kMeasureMost = 60000;
// What takes longer than this, microseconds, is not run for measuring.
constexpr double kMostOnce = 100000;
// What costs at small sizes count for against those at usual ones, each in its turn, until nothing is lost there;
// as factors from one to the next.
constexpr std::array<double, 3> kSmallShares = {0.1, 3, 3};
// ... and for one group at sizes at which little is left to do.
constexpr double kSmallBudget = 2000;
// The share of the CPU provider's time that may be lost there as far as can be told: what is not seen of its
// calls only adds to that.
constexpr double kSmallLoss = 0.03;
// What an estimate from a sample of a weight may be too high by.
constexpr double kHope = 0.9;

// Shapes of a group's inputs with open sizes filled in as the cost model assumes them.
std::vector<Shape> assumed_shapes(const Graph& graph, const Lowering& lowering, const Group& group, const CostModel& costs) {
  std::vector<int> inputs, outputs;
  group_borders(graph, lowering, group.units, &inputs, &outputs);
  std::vector<Shape> shapes;
  for (int v : inputs) shapes.push_back(costs.assumed(lowering.dims[static_cast<size_t>(v)], group.domain));
  return shapes;
}

// Images that go to or come from operators of the CPU provider that keep them in an order of their own, where
// there would be nothing in between.
int seams(const Graph& graph, const Lowering& lowering, const Group& group) {
  if (group.domain != Domain::image) return 0;
  std::vector<int> inputs, outputs;
  group_borders(graph, lowering, group.units, &inputs, &outputs);
  const auto reorders = [&](int node) {
    const Unit& unit = lowering.units[static_cast<size_t>(lowering.unit_of[static_cast<size_t>(node)])];
    return unit.supported && (unit.domains & static_cast<uint8_t>(Domain::image)) != 0;
  };
  int count = 0;
  for (int v : inputs) count += graph.value(v).producer >= 0 && reorders(graph.value(v).producer) ? 1 : 0;
  for (int v : outputs) {
    const std::vector<int>& readers = graph.value(v).consumers;
    count += std::any_of(readers.begin(), readers.end(), [&](int reader) {
      const int u = lowering.unit_of[static_cast<size_t>(reader)];
      return std::find(group.units.begin(), group.units.end(), u) == group.units.end() && reorders(reader);
    }) ? 1 : 0;
  }
  return count;
}

// True when the prediction is too close to call.
bool doubtful(const Group& group) {
  // Estimates are good to some 25 %, and a claim must save 15 %: where more is predicted a measurement is
  // made only if it hardly takes time.
  constexpr double kClear = 0.68, kQuick = 2000;  // microseconds
  return group.ours > kClear * group.cpu || group.ours < kQuick * cycles_per_microsecond();
}

}  // namespace

Digest verdict_digest(const Graph& graph, const Lowering& lowering, const Options& options, kernels::Isa isa) {
  Hasher hasher;
  hasher.put(lowering_digest(graph, lowering)).put(isa).put(options.min_sparsity).put(options.force).put(options.regions);
  return hasher.put(options.timing).put(options.threads).put(options.context_enable).digest();
}

Measured Decider::measure(const std::vector<Group>& groups, const CostModel& costs, double budget_us) const {
  Measured cycles(lowering_.units.size(), -1);
  for (const Group& group : groups) {
    try {
      const std::vector<Shape> shapes = assumed_shapes(graph_, lowering_, group, costs);
      const auto timings = prepared_.find(graph_, lowering_, group)->measure(shapes, budget_us / static_cast<double>(groups.size()));
      if (timings.empty()) continue;
      // A batch of several images costs as many times one.
      const double images = group.domain == Domain::image ? static_cast<double>(std::max<int64_t>(1, shapes[0][0])) : 1.0;
      for (int u : group.units) cycles[static_cast<size_t>(u)] = 0;
      for (const auto& timing : timings)
        if (!timing.units.empty())
          cycles[static_cast<size_t>(timing.units[0])] += images * timing.us * cycles_per_microsecond();
    } catch (const std::invalid_argument&) {
      // Assumed sizes that do not fit together: this group is judged by its prediction.
    }
  }
  return cycles;
}

double Decider::dense(const CostModel& costs, const Group& group) const {
  double total = 0;
  for (int u : group.units) total += costs.cpu(graph_, lowering_, lowering_.units[static_cast<size_t>(u)]);
  return total;
}

std::vector<Scene> Decider::all_scenes(Scene usual) const {
  const std::vector<Group>& groups = selection_.groups;
  const auto all = [&](const CostModel& costs) {
    double total = 0;
    for (const Group& group : groups) total += dense(costs, group);
    return total;
  };
  std::vector<Scene> scenes{std::move(usual)};
  for (const CostModel& costs : costs_.small()) {
    Scene scene{costs, {}};
    if (timed()) {
      scene.measured = measure(groups, costs, kSmallBudget * static_cast<double>(groups.size()));
      scene.costs.cpu_factor = dense_factor();
    }
    scene.weight = all(scenes.front().costs) / std::max(1.0, all(scene.costs));
    scenes.push_back(std::move(scene));
  }
  return scenes;
}

std::vector<Decider::Balance> Decider::balances(const Group& group) const {
  std::vector<Balance> out;
  Executor* const executor = prepared_.find(graph_, lowering_, group);
  const double torn = CostModel::reorder() * seams(graph_, lowering_, group);
  for (CostModel costs : costs_.small()) {
    Balance balance{CostModel::call() + torn, 0};
    for (int u : group.units) {
      const Unit& unit = lowering_.units[static_cast<size_t>(u)];
      if (unit.packed) return {};
      balance.ours += costs.ours(graph_, lowering_, unit);
    }
    balance.cpu = dense(costs, group);
    if (options_.timing && executor != nullptr) {
      try {
        double total = CostModel::call() + torn;
        const auto shapes = assumed_shapes(graph_, lowering_, group, costs);
        for (const auto& timing : executor->measure(shapes, kSmallBudget)) total += timing.us * cycles_per_microsecond();
        balance.ours = total;
        costs.cpu_factor = dense_factor();
        balance.cpu = std::max(balance.cpu, dense(costs, group));
      } catch (const std::invalid_argument&) {
        // Too small for its windows: the prediction stands.
      }
    }
    out.push_back(balance);
  }
  return out;
}

bool Decider::drop_losers_when_small(bool only_look) {
  std::vector<std::vector<Balance>> all;
  for (const Group& group : selection_.groups) all.push_back(group.open ? balances(group) : std::vector<Balance>{});
  bool dropped = false;
  for (size_t scene = 0; scene < costs_.small().size(); ++scene) {
    for (;;) {
      double total = 0, dense = 0, worst = -std::numeric_limits<double>::max();
      size_t loser = 0;
      for (size_t g = 0; g < all.size(); ++g) {
        if (all[g].empty()) continue;
        const double loss = all[g][scene].ours - all[g][scene].cpu;
        total += loss;
        dense += all[g][scene].cpu;
        if (loss > worst) worst = loss, loser = g;
      }
      if (total <= kSmallLoss * dense) break;
      if (only_look) return true;
      char text[200];
      std::snprintf(text, sizeof text,
                    "where its open sizes are small it would take %.2f us against %.2f us on the CPU provider; fixed sizes would help",
                    all[loser][scene].ours / cycles_per_microsecond(), all[loser][scene].cpu / cycles_per_microsecond());
      for (int u : selection_.groups[loser].units) selection_.reasons[static_cast<size_t>(u)] = text;
      selection_.groups.erase(selection_.groups.begin() + static_cast<std::ptrdiff_t>(loser));
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(loser));
      dropped = true;
    }
  }
  return dropped;
}

// Where it is because of the machine (memory, above all), the CPU provider's predictions are as much too low.
double Decider::slower(const Measured& measured) const {
  constexpr double kMost = 1.5, kLeast = 1000;  // microseconds: below it calls count, not memory
  double found = 0, expected = 0;
  for (size_t u = 0; u < measured.size(); ++u) {
    if (measured[u] < 0) continue;
    found += measured[u];
    expected += costs_.ours(graph_, lowering_, lowering_.units[u]);
  }
  const bool known = expected > 0 && found > kLeast * cycles_per_microsecond();
  return known ? std::clamp(found / expected, 1.0, kMost) : 1.0;
}

void Decider::select_from(const std::vector<Scene>& scenes) {
  selection_ = select(graph_, lowering_, options_, scenes);
  if (!options_.context_enable) prepared_.build(graph_, lowering_, execution_, &selection_);
}

Verdict Decider::decide() {
  const auto start = std::chrono::steady_clock::now();
  look_at_weights(options_.force ? 0.0 : options_.min_sparsity, &lowering_);
  costs_.look_around(graph_, lowering_);
  // Packing is most of the work here: only what might be claimed is worth it.
  CostModel hopeful = costs_;
  hopeful.hope = kHope;
  for (const Group& group : select(graph_, lowering_, options_, {{hopeful, {}}}).groups) pack_units(group.units, &lowering_);
  Scene usual{costs_, {}};
  select_from({usual});
  if (timed() && !options_.force && std::any_of(selection_.groups.begin(), selection_.groups.end(), doubtful)) {
    const std::chrono::duration<double, std::micro> packing = std::chrono::steady_clock::now() - start;
    const double budget = std::clamp(packing.count(), kMeasureLeast, kMeasureMost);
    std::vector<Group> unclear;
    for (const Group& group : selection_.groups)
      if (doubtful(group) && group.ours < kMostOnce * cycles_per_microsecond()) unclear.push_back(group);
    usual.measured = measure(unclear, costs_, budget);
    usual.costs.cpu_factor = std::max(dense_factor(), slower(usual.measured));
    select_from({usual});
  }
  if (!options_.force && drop_losers_when_small(true)) {
    // Some of it may lose nowhere: the more small sizes count, the less of what does.
    std::vector<Scene> scenes = all_scenes(std::move(usual));
    for (size_t round = 0; round < kSmallShares.size(); ++round) {
      for (size_t i = 1; i < scenes.size(); ++i) scenes[i].weight *= kSmallShares[round];
      select_from(scenes);
      if (!drop_losers_when_small(round + 1 < kSmallShares.size())) break;
    }
  }
  Verdict verdict;
  verdict.selection = std::move(selection_);
  for (const Unit& unit : lowering_.units) {
    Verdict::Estimate estimate;
    if (unit.anchor) estimate = {unit.sparsity, costs_.ours(graph_, lowering_, unit), costs_.cpu(graph_, lowering_, unit)};
    verdict.estimates.push_back(estimate);
  }
  return verdict;
}

}  // namespace onnxprune::ep
