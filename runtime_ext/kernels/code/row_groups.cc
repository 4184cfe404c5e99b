#include "row_groups.h"

#include <algorithm>
#include <numeric>

namespace onnxprune::kernels {
namespace {

// A weight takes a load, and a column that a group uses one more. Fewer of them by less than this
// share were not to be felt.
constexpr double kLeast = 0.02;
// Where a column that is loaded serves so many rows of its group already, no pattern met so far left
// that much to gain.
constexpr std::int64_t kDense = 5;
// Groups are found among the rows of so many of them, rows of similar length, which takes a time
// proportional to the number of weights: nearly as good as among all rows.
constexpr std::int64_t kWindow = 16;

// The kept columns of all rows, which are ranked by their number. Columns are absolute: conv groups
// multiplied in.
class Pattern {
 public:
  explicit Pattern(const WeightsImpl& w)
      : ranked_(static_cast<std::size_t>(w.rows())),
        row_begin_(ranked_.size() + 1, 0),
        column_begin_(static_cast<std::size_t>(w.columns()) * w.shape.groups + 1, 0) {
    std::vector<std::int32_t> size(ranked_.size(), 0);
    for (std::size_t r = 0; r < size.size(); ++r)
      w.for_each_in_row(static_cast<std::int64_t>(r), [&](std::uint32_t, float) { ++size[r]; });
    std::iota(ranked_.begin(), ranked_.end(), 0);
    std::stable_sort(ranked_.begin(), ranked_.end(),
                     [&](std::int32_t a, std::int32_t b) { return size[a] < size[b]; });
    const std::int32_t per_group = w.shape.out_channels / w.shape.groups;
    columns_.reserve(static_cast<std::size_t>(w.nnz()));
    for (std::size_t k = 0; k < ranked_.size(); ++k) {
      const auto base = static_cast<std::uint32_t>(ranked_[k] / per_group * w.columns());
      w.for_each_in_row(ranked_[k], [&](std::uint32_t column, float) {
        columns_.push_back(base + column);
        ++column_begin_[base + column + 1];
      });
      row_begin_[k + 1] = static_cast<std::uint32_t>(columns_.size());
    }
    std::partial_sum(column_begin_.begin(), column_begin_.end(), column_begin_.begin());
    std::vector<std::uint32_t> next(column_begin_.begin(), column_begin_.end() - 1);
    users_.resize(columns_.size());
    for (std::size_t k = 0; k < ranked_.size(); ++k) {
      for (const std::uint32_t* c = begin(k); c != end(k); ++c)
        users_[next[*c]++] = static_cast<std::int32_t>(k);
    }
  }

  std::size_t columns() const { return column_begin_.size() - 1; }
  std::int64_t size() const { return static_cast<std::int64_t>(columns_.size()); }
  // By rank:
  std::int32_t row(std::size_t rank) const { return ranked_[rank]; }
  std::int32_t size(std::size_t rank) const {
    return static_cast<std::int32_t>(row_begin_[rank + 1] - row_begin_[rank]);
  }
  const std::uint32_t* begin(std::size_t rank) const { return columns_.data() + row_begin_[rank]; }
  const std::uint32_t* end(std::size_t rank) const { return columns_.data() + row_begin_[rank + 1]; }
  // Ranks of the rows that keep a column, rising.
  const std::int32_t* users(std::size_t column) const {
    return users_.data() + column_begin_[column];
  }

 private:
  std::vector<std::int32_t> ranked_;
  std::vector<std::uint32_t> row_begin_, column_begin_, columns_;
  std::vector<std::int32_t> users_;
};

// Columns used by each group of rows; `begin` are the boundaries of the groups.
std::vector<std::int64_t> columns_of(const WeightsImpl& w, const std::vector<std::int32_t>& rows,
                                     const std::vector<std::int32_t>& begin) {
  const std::int32_t per_group = w.shape.out_channels / w.shape.groups;
  std::vector<std::uint32_t> mark(static_cast<std::size_t>(w.columns()) * w.shape.groups, 0);
  std::vector<std::int64_t> count(begin.size() - 1, 0);
  for (std::size_t g = 0; g < count.size(); ++g) {
    const auto now = static_cast<std::uint32_t>(g + 1);
    for (std::int32_t i = begin[g]; i < begin[g + 1]; ++i) {
      const auto base = static_cast<std::size_t>(rows[i] / per_group * w.columns());
      w.for_each_in_row(rows[i], [&](std::uint32_t column, float) {
        count[g] += mark[base + column] != now;
        mark[base + column] = now;
      });
    }
  }
  return count;
}

class Search {
 public:
  explicit Search(const Pattern& pattern)
      : p_(pattern), mark_(pattern.columns(), 0), first_(mark_.size(), 0), last_(mark_.size(), 0) {}

  // Group by group: the row of fewest columns, then whatever row needs fewest new ones (the one with
  // most weights, if several do). Beginning with the short rows leaves the long ones, which use
  // nearly all columns anyway, for the last groups. Returns the loads and the rows in `order`;
  // `begin` are the boundaries of the groups. Gives up, returning `enough`, as soon as the groups
  // so far, which gain most, do not promise to stay below it.
  std::int64_t run(const std::vector<std::int32_t>& begin, std::int64_t enough,
                   std::vector<std::int32_t>* order) {
    const auto groups = static_cast<std::int64_t>(begin.size()) - 1;
    const std::int64_t windows = (groups + kWindow - 1) / kWindow;
    std::int64_t loads = 0, g = 0;
    for (std::int64_t i = 0; i < windows; ++i) {
      const std::int64_t past = groups * (i + 1) / windows;
      open(static_cast<std::size_t>(begin[g]), static_cast<std::size_t>(begin[past]));
      for (; g < past; ++g) {
        loads += group(begin[g + 1] - begin[g], order);
        if (loads * groups >= enough * (g + 1)) return enough;
      }
    }
    return loads;
  }

 private:
  // The rows of rank [first, last) are to be grouped, and nothing else of a column is looked at.
  void open(std::size_t first, std::size_t last) {
    start_ = first;
    left_.resize(last - first);
    std::iota(left_.begin(), left_.end(), first);
    fresh_.resize(left_.size());
    first_ = last_;
    for (std::size_t k = first; k < last; ++k) {
      for (const std::uint32_t* c = p_.begin(k); c != p_.end(k); ++c) ++last_[*c];
    }
  }

  std::int64_t group(std::int32_t rows, std::vector<std::int32_t>* order) {
    ++now_;
    std::int64_t columns = 0;
    const std::size_t from = order->size();
    for (const std::size_t k : left_) fresh_[k - start_] = p_.size(k);
    for (; rows > 0; --rows) {
      const auto at = best();
      const std::size_t k = *at;
      left_.erase(at);
      order->push_back(p_.row(k));
      for (const std::uint32_t* c = p_.begin(k); c != p_.end(k); ++c) {
        if (mark_[*c] == now_) continue;
        mark_[*c] = now_;
        ++columns;
        const std::int32_t* const users = p_.users(*c);
        for (std::uint32_t u = first_[*c]; u < last_[*c]; ++u)
          --fresh_[static_cast<std::size_t>(users[u]) - start_];
      }
    }
    std::sort(order->begin() + static_cast<std::ptrdiff_t>(from), order->end());
    return columns;
  }

  std::vector<std::size_t>::iterator best() {
    return std::min_element(left_.begin(), left_.end(), [this](std::size_t a, std::size_t b) {
      const std::int32_t x = fresh_[a - start_], y = fresh_[b - start_];
      return x != y ? x < y : p_.size(a) > p_.size(b);
    });
  }

  const Pattern& p_;
  std::vector<std::uint32_t> mark_;          // by column: the last group that used it
  std::vector<std::uint32_t> first_, last_;  // by column: which of its users lie in the window
  std::vector<std::size_t> left_;            // ranks of the rows without a group, rising
  std::vector<std::int32_t> fresh_;          // how many columns each would add to the group
  std::size_t start_ = 0;
  std::uint32_t now_ = 0;
};

// Another order of the groups: those with most work first, each to the part that has least so far and
// has room. Parts hold equally many groups, up to one, as their boundaries are computed by the plan.
void balance(const std::vector<std::int64_t>& work, std::int32_t parts, RowGroups* g) {
  const auto groups = static_cast<std::int32_t>(work.size());
  std::vector<std::int32_t> ranked(work.size());
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](std::int32_t a, std::int32_t b) { return work[a] > work[b]; });
  std::vector<std::vector<std::int32_t>> members(static_cast<std::size_t>(parts));
  std::vector<std::int64_t> load(members.size(), 0);
  auto room = [&](std::int64_t p) {
    return static_cast<std::size_t>(groups * (p + 1) / parts - groups * p / parts);
  };
  for (const std::int32_t group : ranked) {
    std::size_t to = members.size();
    for (std::size_t p = 0; p < members.size(); ++p) {
      if (members[p].size() == room(static_cast<std::int64_t>(p))) continue;
      if (to == members.size() || load[p] < load[to]) to = p;
    }
    members[to].push_back(group);
    load[to] += work[group];
  }
  RowGroups sorted;
  sorted.begin = {0};
  for (std::vector<std::int32_t>& part : members) {
    std::sort(part.begin(), part.end());
    for (const std::int32_t group : part) {
      sorted.rows.insert(sorted.rows.end(), g->rows.begin() + g->begin[group],
                         g->rows.begin() + g->begin[group + 1]);
      sorted.begin.push_back(static_cast<std::int32_t>(sorted.rows.size()));
    }
  }
  g->rows = std::move(sorted.rows);
  g->begin = std::move(sorted.begin);
}

}  // namespace

RowGroups group_rows(const WeightsImpl& w, std::int32_t groups, bool alike, std::int32_t parts) {
  RowGroups found;
  const std::int64_t rows = w.rows();
  found.rows.resize(static_cast<std::size_t>(rows));
  std::iota(found.rows.begin(), found.rows.end(), 0);
  for (std::int64_t g = 0; g <= groups; ++g)
    found.begin.push_back(static_cast<std::int32_t>(rows * g / groups));
  if (!alike || groups < 2 || w.nnz() >= INT32_MAX) return found;
  auto sum = [](const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  };
  if (w.columns() * w.shape.groups * groups * kDense < w.nnz()) return found;  // even if all use all columns
  const std::int64_t before = sum(columns_of(w, found.rows, found.begin));
  if (before * kDense < w.nnz()) return found;
  const double least = kLeast * static_cast<double>(w.nnz() + before);
  const auto enough = before - static_cast<std::int64_t>(least);
  const Pattern pattern(w);
  std::vector<std::int32_t> order;
  order.reserve(found.rows.size());
  if (Search(pattern).run(found.begin, enough, &order) >= enough) return found;
  found.rows = std::move(order);
  if (parts > 1 && parts < groups) {
    std::vector<std::int64_t> work = columns_of(w, found.rows, found.begin);
    for (std::size_t g = 0; g < work.size(); ++g) {
      for (std::int32_t i = found.begin[g]; i < found.begin[g + 1]; ++i)
        w.for_each_in_row(found.rows[i], [&](std::uint32_t, float) { ++work[g]; });
    }
    balance(work, parts, &found);
  }
  return found;
}

}  // namespace onnxprune::kernels
