// Finding the weights that are kept: the start of every packing.
#pragma once

#include "table.h"

namespace {

// Every number is written and the end moves on only if it counts: no branch to guess wrong, but a vector
// of room past the end.
template <class Index, class S = Simd>
std::int64_t kept(const float* row, std::int64_t count, float scale, float* values,
                  Index* columns) {
  std::int64_t end = 0, c = 0;
  if constexpr (S::kCompresses) {
    const typename S::Reg factor = S::set1(scale);
    for (; c + S::kWidth <= count; c += S::kWidth) {
      const typename S::Reg given = S::load(row + c), v = S::mul(given, factor);
      const std::uint32_t lanes = S::not_zero(given) & S::not_zero(v);
      S::store_compressed(values + end, v, lanes);
      S::store_lane_numbers(columns + end, static_cast<std::int32_t>(c), lanes);
      end += __builtin_popcount(lanes);
    }
  }
  for (; c < count; ++c) {
    const float given = row[c], v = given * scale;
    columns[end] = static_cast<Index>(c);
    values[end] = v;
    end += (given != 0.0f) & (v != 0.0f);
  }
  return end;
}

}  // namespace
