// Recurrent layers and the products with row tiles against their definitions in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "harness.h"
#include "kernels.h"
#include "ops/table.h"
#include "recurrent.h"

using namespace onnxprune::kernels;

namespace {

// Zeros anywhere, in blocks of four rows, or two of every four columns.
enum class Zeros { anywhere, blocks, pairs };

std::vector<float> sparse_matrix(testing::Random* random, std::int64_t rows, std::int64_t columns,
                                 double density, Zeros zeros) {
  std::vector<float> w(static_cast<std::size_t>(rows * columns));
  std::vector<bool> kept(static_cast<std::size_t>(columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      if (zeros != Zeros::blocks || r % 4 == 0) kept[static_cast<std::size_t>(c)] = random->uniform() < density;
      const bool here = zeros == Zeros::pairs ? (r + c) % 4 < 2 : kept[static_cast<std::size_t>(c)];
      if (here) w[static_cast<std::size_t>(r * columns + c)] = random->symmetric();
    }
  }
  return w;
}

WeightsPtr packed(const std::vector<float>& dense, std::int64_t rows, std::int64_t columns) {
  WeightsPtr weights;
  const ConvGeometry g =
      matmul_geometry(static_cast<std::int32_t>(columns), static_cast<std::int32_t>(rows));
  CHECK(pack_dense(g, {dense.data(), columns, 1}, {}, &weights).ok());
  return weights;
}

std::vector<float> numbers(testing::Random* random, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& v : out) v = random->symmetric();
  return out;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Problem {
  RecurrentShape shape;
  std::int64_t steps = 1, batch = 1;
  std::vector<float> r, x, bias, h, c;
  std::vector<std::int32_t> lengths;
};

struct Result {
  std::vector<float> y, y_h, y_c;
};

Result reference(const Problem& p) {
  const std::int64_t H = p.shape.hidden, D = p.shape.directions, B = p.batch, G = gates_of(p.shape.cell);
  Result out{std::vector<float>(static_cast<std::size_t>(p.steps * D * B * H), 0.0f), {}, {}};
  for (std::int64_t d = 0; d < D; ++d) {
    for (std::int64_t b = 0; b < B; ++b) {
      const auto first = static_cast<std::size_t>((d * B + b) * H);
      std::vector<double> h(static_cast<std::size_t>(H), 0.0), c = h;
      for (std::size_t j = 0; j < h.size(); ++j) {
        if (!p.h.empty()) h[j] = p.h[first + j];
        if (!p.c.empty()) c[j] = p.c[first + j];
      }
      const std::int64_t length = p.lengths.empty() ? p.steps : p.lengths[static_cast<std::size_t>(b)];
      for (std::int64_t step = 0; step < length; ++step) {
        const std::int64_t t = p.shape.backwards(d) ? length - 1 - step : step;
        const auto product = [&](std::int64_t gate, std::int64_t j, const std::vector<double>& state) {
          double sum = 0;
          for (std::int64_t k = 0; k < H; ++k)
            sum += double{p.r[static_cast<std::size_t>(((d * G + gate) * H + j) * H + k)]} * state[static_cast<std::size_t>(k)];
          return sum;
        };
        const auto given = [&](std::int64_t gate, std::int64_t j) {
          return double{p.x[static_cast<std::size_t>((((t * B + b) * D + d) * G + gate) * H + j)]};
        };
        std::vector<double> next = h, reset = h;
        for (std::int64_t j = 0; j < H && p.shape.cell == Cell::gru; ++j)
          reset[static_cast<std::size_t>(j)] *= sigmoid(given(1, j) + product(1, j, h));
        for (std::int64_t j = 0; j < H; ++j) {
          const auto i = static_cast<std::size_t>(j);
          if (p.shape.cell == Cell::rnn) {
            next[i] = std::tanh(given(0, j) + product(0, j, h));
          } else if (p.shape.cell == Cell::lstm) {
            c[i] = sigmoid(given(2, j) + product(2, j, h)) * c[i] +
                   sigmoid(given(0, j) + product(0, j, h)) * std::tanh(given(3, j) + product(3, j, h));
            next[i] = sigmoid(given(1, j) + product(1, j, h)) * std::tanh(c[i]);
          } else {
            const double z = sigmoid(given(0, j) + product(0, j, h));
            const double rest = p.bias.empty() ? 0.0 : p.bias[static_cast<std::size_t>(d * H + j)];
            const double own = p.shape.reset_after
                                   ? sigmoid(given(1, j) + product(1, j, h)) * (product(2, j, h) + rest)
                                   : product(2, j, reset);
            next[i] = (1 - z) * std::tanh(given(2, j) + own) + z * h[i];
          }
        }
        h = next;
        for (std::int64_t j = 0; j < H; ++j)
          out.y[static_cast<std::size_t>(((t * D + d) * B + b) * H + j)] = static_cast<float>(h[static_cast<std::size_t>(j)]);
      }
      for (std::size_t j = 0; j < h.size(); ++j) {
        out.y_h.push_back(static_cast<float>(h[j]));
        out.y_c.push_back(static_cast<float>(c[j]));
      }
    }
  }
  return out;
}

// Room of whole lines, so that the sanitizer sees what goes beyond.
struct Lines {
  explicit Lines(std::size_t bytes) : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {}
  ~Lines() { std::free(data); }
  Lines(const Lines&) = delete;
  void* data;
};

Result computed(const Problem& p, Isa isa, int threads) {
  WeightsPtr weights = packed(p.r, static_cast<std::int64_t>(p.r.size()) / p.shape.hidden, p.shape.hidden);
  std::shared_ptr<const RecurrentWeights> tiles;
  CHECK(make_recurrent_weights(p.shape, *weights, &tiles).ok());
  const Recurrent layer(p.shape, tiles, p.steps, p.batch, isa);
  Result out;
  out.y.assign(static_cast<std::size_t>(p.steps * p.shape.directions * p.batch * p.shape.hidden), 9.0f);
  out.y_h.assign(static_cast<std::size_t>(p.shape.directions * p.batch * p.shape.hidden), 9.0f);
  out.y_c = out.y_h;
  RecurrentRun run;
  run.x = p.x.data();
  if (!p.bias.empty()) run.bias = p.bias.data();
  if (!p.h.empty()) run.h = p.h.data();
  if (!p.c.empty()) run.c = p.c.data();
  if (!p.lengths.empty()) run.lengths = p.lengths.data();
  run.y = out.y.data();
  run.y_h = out.y_h.data();
  if (p.shape.cell == Cell::lstm) run.y_c = out.y_c.data();
  Lines state(layer.state_bytes());
  if (threads == 0) {
    Lines scratch(layer.scratch_bytes());
    for (int d = 0; d < p.shape.directions; ++d) layer.run(run, d, state.data, scratch.data);
    return out;
  }
  layer.start(run, state.data);
  const auto stages = layer.stages(threads);
  const auto work = [&](int thread) {
    Lines scratch(layer.scratch_bytes());
    layer.join(run, stages.get(), thread, state.data, scratch.data);
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  return out;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = a.size() == b.size() ? 0.0 : 1e9;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    worst = std::max(worst, std::abs(double{a[i]} - double{b[i]}));
  return worst;
}

Problem random_problem(testing::Random* random) {
  static const int sizes[] = {1, 3, 16, 17, 31, 32, 33, 64, 65, 100, 130};
  Problem p;
  p.shape.cell = static_cast<Cell>(random->below(3));
  p.shape.hidden = sizes[random->below(11)];
  p.shape.directions = random->between(1, 2);
  p.shape.reverse = random->below(2) == 0;
  p.shape.reset_after = random->below(2) == 0;
  p.steps = random->between(1, 5);
  p.batch = random->between(1, 9);
  const std::int64_t H = p.shape.hidden, D = p.shape.directions, G = gates_of(p.shape.cell);
  p.r = sparse_matrix(random, D * G * H, H, random->uniform() * 0.6, static_cast<Zeros>(random->below(3)));
  p.x = numbers(random, p.steps * p.batch * D * G * H);
  if (p.shape.cell == Cell::gru && p.shape.reset_after && random->below(3) > 0) p.bias = numbers(random, D * H);
  if (random->below(3) > 0) p.h = numbers(random, D * p.batch * H);
  if (p.shape.cell == Cell::lstm && random->below(3) > 0) p.c = numbers(random, D * p.batch * H);
  if (random->below(3) == 0) {
    for (std::int64_t b = 0; b < p.batch; ++b)
      p.lengths.push_back(random->between(0, static_cast<int>(p.steps)));
  }
  return p;
}

std::vector<Isa> sets() {
  std::vector<Isa> out;
  for (Isa isa : {Isa::avx512, Isa::avx2, Isa::scalar})
    if (isa <= active_isa() && isa_supported(isa)) out.push_back(isa);
  return out;
}

}  // namespace

TEST(recurrent_layers_compute_their_definition) {
  testing::Random random(11);
  for (int round = 0; round < 150; ++round) {
    const Problem p = random_problem(&random);
    const Result expected = reference(p);
    for (const Isa isa : sets()) {
      for (const int threads : {0, 1, 3}) {
        const Result found = computed(p, isa, threads);
        double worst = std::max(difference(found.y, expected.y), difference(found.y_h, expected.y_h));
        if (p.shape.cell == Cell::lstm) worst = std::max(worst, difference(found.y_c, expected.y_c));
        CHECK_SAY(worst < 1e-5 * (1.0 + 0.02 * p.shape.hidden), "cell " + std::to_string(static_cast<int>(p.shape.cell)) + ", " + isa_name(isa) +
                                                                     ", hidden " + std::to_string(p.shape.hidden) + ", threads " +
                                                                     std::to_string(threads) + ": off by " + std::to_string(worst));
      }
    }
  }
}

TEST(recurrent_outputs_may_be_missing) {
  testing::Random random(12);
  Problem p = random_problem(&random);
  WeightsPtr weights = packed(p.r, static_cast<std::int64_t>(p.r.size()) / p.shape.hidden, p.shape.hidden);
  std::shared_ptr<const RecurrentWeights> tiles;
  CHECK(make_recurrent_weights(p.shape, *weights, &tiles).ok());
  const Recurrent layer(p.shape, tiles, p.steps, p.batch, active_isa());
  Lines state(layer.state_bytes()), scratch(layer.scratch_bytes());
  RecurrentRun run;
  run.x = p.x.data();
  for (int d = 0; d < p.shape.directions; ++d) layer.run(run, d, state.data, scratch.data);
  RecurrentShape other = p.shape;
  other.hidden += 1;
  CHECK(!make_recurrent_weights(other, *weights, &tiles).ok());
}

TEST(row_tiles_multiply) {
  testing::Random random(13);
  for (int round = 0; round < 120; ++round) {
    const std::int64_t rows = random.between(1, 90), columns = random.between(1, 200);
    const std::int64_t batch = random.between(1, 7);
    const auto dense = sparse_matrix(&random, rows, columns, random.uniform() * 0.7, static_cast<Zeros>(random.below(3)));
    const WeightsPtr weights = packed(dense, rows, columns);
    const RowTiles tiles = make_row_tiles(*weights, 0, rows, rows);
    const std::int64_t stride = tiles.padded_columns();
    std::vector<float> x(static_cast<std::size_t>(batch * stride), 0.0f);
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t c = 0; c < columns; ++c) x[static_cast<std::size_t>(b * stride + c)] = random.symmetric();
    // Only who has a weight there sees an infinity.
    const bool infinite = random.below(4) == 0;
    const auto where = static_cast<std::size_t>(random.below(static_cast<int>(columns)));
    if (infinite) x[where] = std::numeric_limits<float>::infinity();
    for (const Isa isa : sets()) {
      std::vector<float> y(static_cast<std::size_t>(batch * tiles.groups() * 16));
      const std::int64_t out = tiles.groups() * 16;
      const OpsTable& ops = ops_table(isa);
      CHECK(ops.finite(x.data(), columns) == !infinite);
      if (infinite) {
        for (std::int64_t b = 0; b < batch; ++b) exact_tile_products(tiles, 0, tiles.groups(), x.data() + b * stride, y.data() + b * out);
      } else {
        tile_products(ops, tiles, 0, tiles.groups(), x.data(), stride, batch, y.data(), out);
      }
      for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          for (std::int64_t c = 0; c < columns; ++c) {
            const float w = dense[static_cast<std::size_t>(r * columns + c)];
            if (w != 0.0f) sum += double{w} * x[static_cast<std::size_t>(b * stride + c)];
          }
          const double found = y[static_cast<std::size_t>(b * out + r)];
          CHECK(std::isfinite(sum) ? std::abs(found - sum) < 1e-5 * (1.0 + columns * 0.05) : found == sum);
        }
      }
    }
  }
}

TEST(row_tiles_predict_how_many_slots_there_are) {
  testing::Random random(14);
  for (const double density : {0.05, 0.1, 0.2, 0.5}) {
    for (const Zeros zeros : {Zeros::anywhere, Zeros::blocks}) {
      const auto dense = sparse_matrix(&random, 512, 256, density, zeros);
      const RowTiles tiles = make_row_tiles(*packed(dense, 512, 256), 0, 512, 512);
      const int block = zeros == Zeros::blocks ? 4 : 1;
      const double predicted = row_tiles_cycles(512, 256, density, 0, 0, block, 1, Isa::avx512);
      const double counted = row_tiles_cycles(tiles, 1, Isa::avx512);
      CHECK_SAY(std::abs(predicted / counted - 1.0) < 0.12, "density " + std::to_string(density) + ": " + std::to_string(predicted / counted));
    }
  }
}

TEST(transpositions) {
  testing::Random random(15);
  for (const Isa isa : sets()) {
    for (const int rows : {1, 7, 16, 33}) {
      for (const int columns : {1, 8, 16, 47}) {
        const std::vector<float> from = numbers(&random, rows * (columns + 3));
        std::vector<float> to(static_cast<std::size_t>(columns * rows));
        ops_table(isa).transpose(from.data(), columns + 3, rows, columns, to.data(), rows);
        bool right = true;
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < columns; ++c)
            right = right && to[static_cast<std::size_t>(c * rows + r)] == from[static_cast<std::size_t>(r * (columns + 3) + c)];
        CHECK(right);
      }
    }
  }
}

TEST(stages_follow_each_other) {
  for (const int threads : {1, 2, 4}) {
    constexpr int kStages = 200, kPieces = 7;
    std::vector<int> sums(kPieces, 0), before(kPieces, 0);
    std::atomic<bool> ordered{true};
    std::atomic<int> taken{0};
    Stages stages(kStages, kPieces, threads);
    const auto work = [&](int thread) {
      stages.run(thread, [&](std::uint32_t stage, std::uint32_t piece) {
        // All of the stage before must be there.
        auto& from = stage % 2 == 0 ? before : sums;
        auto& to = stage % 2 == 0 ? sums : before;
        for (const int v : from) if (v != static_cast<int>(stage)) ordered = false;
        to[piece] = static_cast<int>(stage) + 1;
        ++taken;
      });
    };
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
    work(0);
    for (std::thread& helper : helpers) helper.join();
    CHECK(ordered && taken == kStages * kPieces);
  }
}
