// Recurrent layers (ONNX: LSTM, GRU, RNN with their default activations): the steps, given what the inputs
// contribute. The products with the state are those of row tiles; the gates follow while these are in the
// first-level cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "spmv/row_tiles.h"
#include "stages.h"

namespace onnxprune::kernels {

enum class Cell : std::uint8_t { lstm = 0, gru, rnn };
inline int gates_of(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1; }

struct RecurrentShape {
  Cell cell = Cell::lstm;
  std::int32_t hidden = 0, directions = 1;
  bool reverse = false;      // of a single direction; of two the second one runs backwards
  bool reset_after = false;  // GRU: linear_before_reset
  bool backwards(std::int64_t direction) const { return directions == 2 ? direction == 1 : reverse; }
};

// The state's weights of all directions as tiles, independent of how many steps and sequences there are.
struct RecurrentWeights {
  std::vector<RowTiles> tiles;  // by direction, gates padded to whole groups of rows
  std::int64_t bytes() const;
};
// `weights`: [directions * gates * hidden][hidden], as ONNX has them.
Status make_recurrent_weights(const RecurrentShape& shape, const Weights& weights,
                              std::shared_ptr<const RecurrentWeights>* made);

struct RecurrentRun {
  // [steps][batch][directions][gates][hidden]: W x with all biases, but that of the state in the last gate
  // of a GRU that resets afterwards.
  const float* x = nullptr;
  const float* bias = nullptr;  // [directions][hidden]: this one; null = zero
  const float *h = nullptr, *c = nullptr;  // [directions][batch][hidden], null = zero
  const std::int32_t* lengths = nullptr;   // [batch], 0 .. steps; null = all steps
  float* y = nullptr;                      // [steps][directions][batch][hidden]; each may be null
  float *y_h = nullptr, *y_c = nullptr;    // [directions][batch][hidden]
};

class Recurrent {
 public:
  Recurrent(const RecurrentShape& shape, std::shared_ptr<const RecurrentWeights> weights,
            std::int64_t steps, std::int64_t batch, Isa isa);

  // Bytes that the state of all directions takes, and what each thread needs for itself; 64-byte aligned.
  std::size_t state_bytes() const;
  std::size_t scratch_bytes() const;
  // Cycles of all steps, estimated from the weights.
  double cycles() const;
  // Cycles between two points where threads would have to wait for each other.
  double stage_cycles() const;

  // A direction from its beginning to its end.
  void run(const RecurrentRun& args, std::int64_t direction, void* state, void* scratch) const;
  // All directions, by every thread that calls `join` with the same `stages`, after one has called `start`.
  void start(const RecurrentRun& args, void* state) const;
  std::unique_ptr<Stages> stages(int threads) const;
  void join(const RecurrentRun& args, Stages* stages, int thread, void* state, void* scratch) const;

 private:
  struct State;
  State state_of(void* state, std::int64_t direction) const;
  void begin(const RecurrentRun& args, std::int64_t direction, void* state) const;
  void finish_direction(const RecurrentRun& args, std::int64_t direction, void* state) const;
  std::int64_t stages_a_step() const;
  std::int64_t pieces() const;
  // Stage `half` (GRU that resets first: 0 or 1) of a step for some units.
  void work(const RecurrentRun& args, std::int64_t direction, std::int64_t step, int half,
            std::int64_t piece, void* state, float* sums) const;

  RecurrentShape shape_;
  std::shared_ptr<const RecurrentWeights> weights_;
  std::int64_t steps_, batch_;
  Isa isa_;
  const OpsTable& ops_;
  std::int64_t padded_;  // units of a gate, in whole groups of rows
  std::int64_t wide_;    // floats of a state vector, in whole blocks of columns
};

}  // namespace onnxprune::kernels
