#include "recurrent.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/table.h"
#include "weights_impl.h"

namespace onnxprune::kernels {
namespace {

constexpr std::int64_t kRows = RowTiles::kRows;
// Units that one thread takes at a time: as many as keep the gates busy while the next products start.
constexpr std::int64_t kUnits = 64;
constexpr std::int32_t kMostUnits = 1 << 20;
// Cycles of the gates for each unit, besides those of the products.
constexpr double kLstmUnit = 9.0, kGruUnit = 6.0, kRnnUnit = 2.5;

std::int64_t up_to(std::int64_t value, std::int64_t of) { return (value + of - 1) / of * of; }

}  // namespace

std::int64_t RecurrentWeights::bytes() const {
  std::int64_t total = 0;
  for (const RowTiles& t : tiles) total += t.bytes();
  return total;
}

Status make_recurrent_weights(const RecurrentShape& shape, const Weights& weights,
                              std::shared_ptr<const RecurrentWeights>* made) {
  const std::int64_t rows = std::int64_t{gates_of(shape.cell)} * shape.hidden;
  const ConvGeometry& g = weights.geometry();
  if (shape.hidden < 1 || shape.hidden > kMostUnits || g.taps() != 1 || g.groups != 1 ||
      g.in_channels != shape.hidden || g.out_channels != shape.directions * rows)
    return failure(Code::invalid_argument, "recurrent: weights of %d x %d for %d units",
                   g.out_channels, g.in_channels, shape.hidden);
  return guarded([&]() -> Status {
    auto all = std::make_shared<RecurrentWeights>();
    for (std::int64_t d = 0; d < shape.directions; ++d)
      all->tiles.push_back(make_row_tiles(weights, d * rows, (d + 1) * rows, shape.hidden));
    *made = std::move(all);
    return {};
  });
}

// The state of one direction.
struct Recurrent::State {
  float* h[2];    // [batch][wide], before and after a step in turns
  float* c;       // [batch][padded], LSTM
  float* update;  // [batch][padded], GRU that resets first
  float* reset;   // [batch][wide], the same
};

Recurrent::Recurrent(const RecurrentShape& shape, std::shared_ptr<const RecurrentWeights> weights,
                     std::int64_t steps, std::int64_t batch, Isa isa)
    : shape_(shape),
      weights_(std::move(weights)),
      steps_(steps),
      batch_(batch),
      isa_(isa),
      ops_(ops_table(isa)),
      padded_(up_to(shape.hidden, kRows)),
      wide_(up_to(shape.hidden, RowTiles::kColumns)) {}

std::size_t Recurrent::state_bytes() const {
  return static_cast<std::size_t>(shape_.directions * batch_ * (3 * wide_ + padded_)) * sizeof(float);
}

std::size_t Recurrent::scratch_bytes() const {
  return static_cast<std::size_t>(batch_ * gates_of(shape_.cell) * kUnits) * sizeof(float);
}

Recurrent::State Recurrent::state_of(void* state, std::int64_t direction) const {
  float* at = static_cast<float*>(state) + direction * batch_ * (3 * wide_ + padded_);
  State s;
  s.h[0] = at;
  s.h[1] = at + batch_ * wide_;
  s.reset = at + 2 * batch_ * wide_;
  s.c = s.update = at + 3 * batch_ * wide_;  // no cell has both
  return s;
}

double Recurrent::stage_cycles() const {
  const double unit = shape_.cell == Cell::lstm ? kLstmUnit : shape_.cell == Cell::gru ? kGruUnit : kRnnUnit;
  double each = unit * static_cast<double>(shape_.hidden * shape_.directions);
  for (const RowTiles& t : weights_->tiles) each += row_tiles_cycles(t, static_cast<double>(batch_), isa_);
  return static_cast<double>(batch_) * each / static_cast<double>(stages_a_step());
}

double Recurrent::cycles() const {
  return stage_cycles() * static_cast<double>(stages_a_step() * steps_);
}

std::int64_t Recurrent::stages_a_step() const {
  return shape_.cell == Cell::gru && !shape_.reset_after ? 2 : 1;
}

std::int64_t Recurrent::pieces() const { return (shape_.hidden + kUnits - 1) / kUnits; }

void Recurrent::begin(const RecurrentRun& args, std::int64_t direction, void* state) const {
  const State s = state_of(state, direction);
  const std::int64_t hidden = shape_.hidden;
  const auto load = [&](const float* from, float* to, std::int64_t stride) {
    for (std::int64_t b = 0; b < batch_; ++b) {
      float* row = to + b * stride;
      if (from == nullptr) {
        std::fill(row, row + stride, 0.0f);
      } else {
        const float* given = from + (direction * batch_ + b) * hidden;
        std::copy(given, given + hidden, row);
        std::fill(row + hidden, row + stride, 0.0f);
      }
    }
  };
  load(args.h, s.h[0], wide_);
  // What is infinite before the first step would meet zeros that only fill up lists.
  for (std::int64_t i = 0; i < batch_ * wide_; ++i)
    if (std::isinf(s.h[0][i])) s.h[0][i] = std::numeric_limits<float>::quiet_NaN();
  load(nullptr, s.h[1], wide_);
  load(nullptr, s.reset, wide_);
  load(shape_.cell == Cell::lstm ? args.c : nullptr, s.c, padded_);
}

void Recurrent::finish_direction(const RecurrentRun& args, std::int64_t direction, void* state) const {
  const State s = state_of(state, direction);
  const std::int64_t hidden = shape_.hidden;
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::int64_t to = (direction * batch_ + b) * hidden;
    if (args.y_h != nullptr) std::copy_n(s.h[steps_ % 2] + b * wide_, hidden, args.y_h + to);
    if (args.y_c != nullptr) std::copy_n(s.c + b * padded_, hidden, args.y_c + to);
  }
}

void Recurrent::work(const RecurrentRun& args, std::int64_t direction, std::int64_t step, int half,
                     std::int64_t piece, void* state, float* sums) const {
  const State s = state_of(state, direction);
  const std::int64_t first = piece * kUnits, hidden = shape_.hidden;
  const std::int64_t units = std::min(kUnits, hidden - first);
  const std::int64_t groups = (units + kRows - 1) / kRows;
  const int gates = gates_of(shape_.cell);
  const bool halves = stages_a_step() == 2;
  const int from = halves && half == 1 ? 2 : 0, to = halves && half == 0 ? 2 : gates;
  const std::int64_t stride = kUnits * gates;
  const float* h = s.h[step % 2];
  float* next = s.h[1 - step % 2];
  const RowTiles& tiles = weights_->tiles[static_cast<std::size_t>(direction)];
  for (int g = from; g < to; ++g) {
    const std::int64_t group = (g * padded_ + first) / kRows;
    tile_products(ops_, tiles, group, group + groups, halves && half == 1 ? s.reset : h, wide_, batch_,
                  sums + (g - from) * kUnits, stride);
  }
  CellStep cell;
  cell.count = units;
  cell.x_stride = hidden;
  cell.r_stride = kUnits;
  if (args.bias != nullptr) cell.bias = args.bias + direction * hidden + first;
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::int64_t length = args.lengths != nullptr ? args.lengths[b] : steps_;
    const float* before = h + b * wide_ + first;
    float* after = next + b * wide_ + first;
    if (step >= length) {
      if (halves && half == 0) continue;
      std::copy(before, before + units, after);
      if (args.y != nullptr)
        std::fill_n(args.y + ((step * shape_.directions + direction) * batch_ + b) * hidden + first, units, 0.0f);
      continue;
    }
    const std::int64_t t = shape_.backwards(direction) ? length - 1 - step : step;
    cell.x = args.x + ((t * batch_ + b) * shape_.directions + direction) * gates * hidden + first;
    cell.r = sums + b * stride;
    cell.h_before = before;
    cell.h = after;
    cell.c_before = cell.c = s.c + b * padded_ + first;
    cell.update = s.update + b * padded_ + first;
    cell.reset = s.reset + b * wide_ + first;
    if (shape_.cell == Cell::lstm) {
      ops_.lstm_step(cell);
    } else if (shape_.cell == Cell::rnn) {
      ops_.rnn_step(cell);
    } else if (!halves) {
      ops_.gru_step(cell);
    } else if (half == 0) {
      ops_.gru_gates(cell);
      continue;
    } else {
      ops_.gru_candidate(cell);
    }
    if (args.y != nullptr)
      std::copy(after, after + units,
                args.y + ((t * shape_.directions + direction) * batch_ + b) * hidden + first);
  }
}

void Recurrent::run(const RecurrentRun& args, std::int64_t direction, void* state,
                    void* scratch) const {
  begin(args, direction, state);
  for (std::int64_t step = 0; step < steps_; ++step) {
    for (int half = 0; half < stages_a_step(); ++half) {
      for (std::int64_t piece = 0; piece < pieces(); ++piece)
        work(args, direction, step, half, piece, state, static_cast<float*>(scratch));
    }
  }
  finish_direction(args, direction, state);
}

void Recurrent::start(const RecurrentRun& args, void* state) const {
  for (std::int64_t d = 0; d < shape_.directions; ++d) begin(args, d, state);
}

// One more at the end, which hands out the last state.
std::unique_ptr<Stages> Recurrent::stages(int threads) const {
  return std::make_unique<Stages>(static_cast<std::uint32_t>(steps_ * stages_a_step() + 1),
                                  static_cast<std::uint32_t>(shape_.directions * pieces()), threads);
}

void Recurrent::join(const RecurrentRun& args, Stages* stages, int thread, void* state,
                     void* scratch) const {
  const std::int64_t halves = stages_a_step();
  stages->run(thread, [&](std::uint32_t stage, std::uint32_t index) {
    const std::int64_t direction = index / pieces(), piece = index % pieces();
    if (stage == steps_ * halves) {
      if (piece == 0) finish_direction(args, direction, state);
      return;
    }
    work(args, direction, stage / halves, static_cast<int>(stage % halves), piece, state,
         static_cast<float*>(scratch));
  });
}

}  // namespace onnxprune::kernels
