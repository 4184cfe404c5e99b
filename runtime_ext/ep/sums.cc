#include "ep/sums.h"

#include <algorithm>
#include <stdexcept>

namespace onnxprune::ep {
namespace {

constexpr int64_t kMost = 1 << 24;

[[noreturn]] void misfit(const std::string& what) { throw std::invalid_argument("onnxprune: " + what); }

int64_t tokens_of(const Shape& shape) {
  int64_t n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

}  // namespace

void check_sums(const SumsSpec& s, size_t operands) {
  const auto bad = [] { misfit("sums of products: terms"); };
  const size_t all = operands + s.tables.size();
  if (s.sequence < -1 || s.sequence == 0) bad();
  if (s.starts.size() < 2 || s.starts.front() != 0 || static_cast<size_t>(s.starts.back()) != s.terms.size()) bad();
  for (size_t p = 1; p < s.starts.size(); ++p)
    if (s.starts[p] <= s.starts[p - 1] || s.starts[p] - s.starts[p - 1] > 8) bad();
  for (const auto& t : s.terms)
    if (t.a < 0 || static_cast<size_t>(t.a) >= all || t.b < -1 || (t.b >= 0 && static_cast<size_t>(t.b) >= all) ||
        t.a_plane < 0 || t.b_plane < 0 || t.a_plane > kMost || t.b_plane > kMost)
      bad();
  for (const auto& table : s.tables)
    if (table.tokens < 1 || table.planes.size() % static_cast<size_t>(table.tokens) != 0) misfit("sums of products: a table");
}

void check_lookup(const SumsSpec& s, size_t operands) {
  if (operands != 1 || !s.terms.empty() || s.tables.size() != 1) misfit("lookup: operands");
  const SumsSpec::Table& table = s.tables[0];
  if (table.tokens < 1 || table.planes.empty() || table.planes.size() % static_cast<size_t>(table.tokens) != 0) misfit("lookup: a table");
}

Shape sums_shape(const SumsSpec& spec, const std::vector<Shape>& operands) {
  std::vector<int64_t> planes, tokens;
  for (const Shape& shape : operands) {
    if (shape.empty()) misfit("sums of products: an operand without axes");
    planes.push_back(shape.back());
    tokens.push_back(tokens_of(shape));
  }
  for (const auto& table : spec.tables) {
    planes.push_back(static_cast<int64_t>(table.planes.size()) / table.tokens);
    tokens.push_back(table.tokens);
  }
  const Shape& first = operands[0];
  const int64_t inner = spec.sequence > 0 ? spec.sequence : first.size() > 1 ? first[first.size() - 2] : 1;
  const auto wrong = [&](size_t k) {
    misfit("sums of products: operands of shapes " + to_string(first) + " and " +
           (k < operands.size() ? to_string(operands[k]) : "[" + std::to_string(tokens[k]) + "]"));
  };
  const auto check = [&](int32_t k, int32_t plane, bool whole) {
    const size_t i = static_cast<size_t>(k);
    if (plane >= planes[i]) wrong(i);
    if (tokens[i] == tokens[0]) return;
    // Repeated: by whole sequences.
    if (whole || tokens[i] < 1 || tokens[0] % tokens[i] != 0 || (tokens[i] != 1 && tokens[i] % inner != 0)) wrong(i);
  };
  for (const auto& t : spec.terms) {
    check(t.a, t.a_plane, true);
    if (t.b >= 0) check(t.b, t.b_plane, false);
  }
  Shape out = first;
  out.back() = static_cast<int64_t>(spec.starts.size()) - 1;
  return out;
}

void check_spread(const SpreadSpec& s) {
  if (s.parts.empty() || (s.axis < 0 && (s.parts.size() != 1 || !s.parts[0].in_planes()))) misfit("spread: parts");
  size_t rank = 0;
  for (const auto& part : s.parts) {
    if (!part.in_planes()) continue;
    if (rank == 0) rank = part.roles.size();
    int64_t features = 1;
    int batches = 0, tokens = 0;
    if (part.roles.size() != rank || part.sizes.size() != rank || rank > 16 || part.tokens < -1) misfit("spread: axes");
    for (size_t i = 0; i < rank; ++i) {
      if (part.roles[i] > SpreadSpec::feature || part.sizes[i] < 1 || part.sizes[i] > kMost) misfit("spread: axes");
      if (part.roles[i] != SpreadSpec::feature && part.sizes[i] != 1) misfit("spread: axes");
      batches += part.roles[i] == SpreadSpec::batch;
      tokens += part.roles[i] == SpreadSpec::token;
      features = std::min(kMost + 1, features * part.sizes[i]);
    }
    if (batches > 1 || tokens > 1 || features != static_cast<int64_t>(part.features.size())) misfit("spread: axes");
    for (int32_t f : part.features)
      if (f < 0 || f > kMost) misfit("spread: features");
  }
  if (rank == 0 || s.axis >= static_cast<int32_t>(rank)) misfit("spread: axis");
}

Shape part_shape(const SpreadSpec::Part& part, const Shape& operand) {
  if (!part.in_planes()) return operand;
  const auto wrong = [&] { misfit("spread: an operand of shape " + to_string(operand)); };
  if (operand.empty()) wrong();
  for (int32_t f : part.features)
    if (f >= operand.back()) wrong();
  const int64_t all = tokens_of(operand);
  const int64_t tokens = part.tokens > 0    ? part.tokens
                         : part.tokens == 0 ? all
                         : operand.size() > 1 ? operand[operand.size() - 2]
                                              : 1;
  Shape out = part.sizes;
  int64_t covered = 1;
  for (size_t i = 0; i < out.size(); ++i) {
    if (part.roles[i] == SpreadSpec::token) out[i] = tokens;
    if (part.roles[i] == SpreadSpec::batch) out[i] = tokens == 0 ? 0 : all / tokens;
    if (part.roles[i] != SpreadSpec::feature) covered *= out[i];
  }
  if (covered != all) wrong();
  return out;
}

Shape spread_shape(const SpreadSpec& spec, const std::vector<Shape>& operands) {
  Shape out = part_shape(spec.parts[0], operands[0]);
  for (size_t k = 1; k < operands.size(); ++k) {
    Shape other = part_shape(spec.parts[k], operands[k]);
    const size_t axis = static_cast<size_t>(spec.axis);
    if (other.size() != out.size() || axis >= out.size()) misfit("spread: operands of different rank");
    const int64_t more = other[axis];
    other[axis] = out[axis];
    if (other != out) misfit("spread: operands of shapes " + to_string(out) + " and " + to_string(operands[k]));
    out[axis] += more;
  }
  return out;
}

}  // namespace onnxprune::ep
