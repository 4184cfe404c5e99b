// Which output rows share the registers of a generated function: rows that keep the same columns, so
// that an input vector is loaded for more weights. A row is stored to its own plane wherever it is
// computed, so this costs nothing when the plan runs, and no sum changes.
#pragma once

#include <cstdint>
#include <vector>

#include "../weights_impl.h"

namespace onnxprune::kernels {

struct RowGroups {
  std::vector<std::int32_t> rows;   // rows[i]: the row at place i; a group's rows rise
  std::vector<std::int32_t> begin;  // groups + 1 boundaries of places
};

// `groups` groups of as many rows each, up to one. Rows stay as they are unless `alike`, and where the
// loads that are saved would not be felt. With `parts` > 1, the equally many groups of each part (for
// a thread) have about equally much work.
RowGroups group_rows(const WeightsImpl& weights, std::int32_t groups, bool alike,
                     std::int32_t parts);

}  // namespace onnxprune::kernels
