#include "ep/recurrent.h"

#include <stdexcept>

namespace onnxprune::ep {
namespace {

[[noreturn]] void misfit(const std::string& what) { throw std::invalid_argument("onnxprune: a recurrent layer: " + what); }

}  // namespace

void check_recurrent(const RecurrentSpec& spec) {
  constexpr int64_t kMost = int64_t{1} << 20;
  const kernels::RecurrentShape& s = spec.shape;
  if (s.hidden < 1 || s.hidden > kMost || s.directions < 1 || s.directions > 2) misfit("sizes");
  const bool lstm = s.cell == kernels::Cell::lstm;
  if (spec.results == 0 || spec.results > (lstm ? 7 : 3) || spec.operands > (lstm ? 7 : 3)) misfit("operands");
  if (spec.batch < 0 || spec.batch > kMost) misfit("batch");
  const auto state = static_cast<size_t>(s.directions * spec.batch * s.hidden);
  const bool constants = !spec.lengths.empty() || !spec.h.empty() || !spec.c.empty();
  if (constants != (spec.batch > 0)) misfit("batch");
  if (!spec.lengths.empty() && spec.lengths.size() != static_cast<size_t>(spec.batch)) misfit("lengths");
  if (!spec.h.empty() && spec.h.size() != state) misfit("state");
  if (!spec.c.empty() && (spec.c.size() != state || !lstm)) misfit("state");
  const bool twice = (!spec.lengths.empty() && (spec.operands & kLengths)) || (!spec.h.empty() && (spec.operands & kInitialH)) ||
                     (!spec.c.empty() && (spec.operands & kInitialC));
  if (twice) misfit("operands");
  const bool biased = s.cell == kernels::Cell::gru && s.reset_after;
  if (!spec.bias.empty() && (!biased || spec.bias.size() != static_cast<size_t>(s.directions * s.hidden))) misfit("bias");
}

std::vector<Shape> recurrent_shapes(const RecurrentSpec& spec, const std::vector<Shape>& operands) {
  const Shape& x = operands.at(0);
  const int64_t directions = spec.shape.directions, hidden = spec.shape.hidden;
  if (x.size() != 3 || x[2] != spec.width()) misfit("an input of shape " + to_string(x));
  const Shape state = {directions, x[1], hidden};
  if (spec.batch > 0 && x[1] != spec.batch)
    misfit("constants for " + std::to_string(spec.batch) + " sequences, inputs for " + std::to_string(x[1]));
  size_t next = 1;
  for (const uint8_t operand : {kLengths, kInitialH, kInitialC}) {
    if (!(spec.operands & operand)) continue;
    const Shape expected = operand == kLengths ? Shape{x[1]} : state;
    if (operands.at(next) != expected) misfit("an operand of shape " + to_string(operands[next]));
    ++next;
  }
  for (const int32_t length : spec.lengths) check_lengths(&length, 1, x[0]);
  std::vector<Shape> results;
  if (spec.results & kY) results.push_back({x[0], directions, x[1], hidden});
  if (spec.results & kYH) results.push_back(state);
  if (spec.results & kYC) results.push_back(state);
  return results;
}

void check_lengths(const int32_t* lengths, int64_t count, int64_t steps) {
  for (int64_t i = 0; i < count; ++i)
    if (lengths[i] < 0 || lengths[i] > steps)
      misfit("a sequence of length " + std::to_string(lengths[i]) + " in an input of " + std::to_string(steps) + " steps");
}

}  // namespace onnxprune::ep
