// Which rows a generated function computes together.
#include <algorithm>
#include <numeric>
#include <set>

#include "code/row_groups.h"
#include "harness.h"

namespace {

using namespace onnxprune::kernels;

// Keeps (row, column) where `kept` says so.
template <class Kept>
WeightsPtr make(int rows, int columns, Kept&& kept) {
  ConvGeometry g;
  g.in_channels = columns;
  g.out_channels = rows;
  std::vector<float> w(static_cast<std::size_t>(rows) * columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) w[static_cast<std::size_t>(r) * columns + c] = kept(r, c) ? 1.0f : 0.0f;
  }
  PackOptions options;
  options.storage = Storage::csr;
  WeightsPtr weights;
  CHECK(pack_dense(g, DenseView{w.data(), columns, 1}, options, &weights).ok());
  return weights;
}

// Columns that groups [first, last) load, and their weights.
struct Work {
  std::int64_t loads = 0, weights = 0;
};
Work work_of(const Weights& weights, const RowGroups& groups, std::size_t first, std::size_t last) {
  Work work;
  for (std::size_t g = first; g < last; ++g) {
    std::set<std::uint32_t> columns;
    for (int i = groups.begin[g]; i < groups.begin[g + 1]; ++i) {
      static_cast<const WeightsImpl&>(weights).for_each_in_row(
          groups.rows[static_cast<std::size_t>(i)], [&](std::uint32_t column, float) {
            columns.insert(column);
            ++work.weights;
          });
    }
    work.loads += static_cast<std::int64_t>(columns.size());
  }
  return work;
}

struct Found : RowGroups {
  std::int64_t before = 0, after = 0;  // columns loaded
};

Found checked(const Weights& weights, int groups, int parts, int smallest, int largest) {
  const auto& w = static_cast<const WeightsImpl&>(weights);
  Found found;
  static_cast<RowGroups&>(found) = group_rows(w, groups, true, parts);
  CHECK(static_cast<int>(found.begin.size()) == groups + 1);
  CHECK(found.begin.front() == 0 && found.begin.back() == w.rows());
  std::vector<std::int32_t> sorted = found.rows, all(sorted.size());
  std::sort(sorted.begin(), sorted.end());
  std::iota(all.begin(), all.end(), 0);
  CHECK(sorted == all);
  for (int g = 0; g < groups; ++g) {
    const int size = found.begin[g + 1] - found.begin[g];
    CHECK(size >= smallest && size <= largest);
    CHECK(std::is_sorted(found.rows.begin() + found.begin[g], found.rows.begin() + found.begin[g + 1]));
  }
  const auto all_groups = static_cast<std::size_t>(groups);
  found.after = work_of(weights, found, 0, all_groups).loads;
  found.before = work_of(weights, group_rows(w, groups, false, parts), 0, all_groups).loads;
  CHECK(found.after <= found.before);
  const RowGroups again = group_rows(w, groups, true, parts);
  CHECK(again.rows == found.rows && again.begin == found.begin);
  return found;
}

}  // namespace

TEST(row_groups_find_families) {
  // Eight families of 28 rows, dealt like cards; each keeps an eighth of the columns.
  const auto weights = make(224, 64, [](int r, int c) { return r % 8 == c % 8; });
  const Found found = checked(*weights, 8, 1, 28, 28);
  CHECK(found.before == 8 * 64);
  CHECK(found.after == 64);
}

TEST(row_groups_gain_on_random_rows) {
  testing::Random random(5);
  std::vector<char> on(1000 * 96);
  for (char& x : on) x = random.uniform() < 0.05f;
  const auto weights = make(1000, 96, [&](int r, int c) { return on[static_cast<std::size_t>(r * 96 + c)] != 0; });
  const Found found = checked(*weights, 36, 1, 27, 28);
  CHECK(found.after < found.before * 3 / 4);
}

TEST(row_groups_share_work_among_parts) {
  // Rows of rising length: grouped, the last ones have most of the work; parts get equal shares.
  testing::Random random(6);
  std::vector<char> on(224 * 128);
  for (int r = 0; r < 224; ++r) {
    for (int c = 0; c < 128; ++c)
      on[static_cast<std::size_t>(r * 128 + c)] = c % 7 == r % 7 && random.uniform() < static_cast<float>(r) / 224;
  }
  const auto weights = make(224, 128, [&](int r, int c) { return on[static_cast<std::size_t>(r * 128 + c)] != 0; });
  const Found found = checked(*weights, 8, 2, 28, 28);
  CHECK(found.after < found.before);
  const Work first = work_of(*weights, found, 0, 4), second = work_of(*weights, found, 4, 8);
  const std::int64_t one = first.loads + first.weights, other = second.loads + second.weights;
  CHECK(8 * std::abs(one - other) < one + other);
}

TEST(row_groups_leave_what_has_nothing_to_gain) {
  for (const int modulus : {1, 2}) {  // all columns, or the same half of them, in every row
    const auto weights = make(90, 50, [&](int, int c) { return c % modulus == 0; });
    const Found found = checked(*weights, 4, 2, 22, 23);
    CHECK(std::is_sorted(found.rows.begin(), found.rows.end()));
  }
  const auto empty = make(60, 8, [](int, int) { return false; });
  CHECK(checked(*empty, 3, 1, 20, 20).after == 0);
  const auto one = make(20, 8, [](int r, int c) { return r % 2 == c % 2; });
  const Found found = checked(*one, 1, 1, 20, 20);
  CHECK(std::is_sorted(found.rows.begin(), found.rows.end()));
}
