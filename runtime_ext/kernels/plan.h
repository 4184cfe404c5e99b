// A plan: weights made ready for one instruction set, one pair of layouts and one epilogue. It owns
// all it needs, so the Weights can be dropped after planning when the shape is fixed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cpu.h"
#include "layout.h"
#include "weights.h"

namespace onnxprune::kernels {

enum class Activation : std::uint8_t {
  none = 0,
  relu,          // max(x, 0)
  leaky_relu,    // x < 0 ? alpha * x : x
  clip,          // min(max(x, alpha), beta)
  hard_swish,    // x * min(max(x / 6 + 1/2, 0), 1)
  hard_sigmoid,  // min(max(alpha * x + beta, 0), 1)
  sigmoid,
  silu,  // x * sigmoid(x)
  tanh,
  gelu_erf,   // x * Phi(x)
  gelu_tanh,  // x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
  // What turns a sum into a quantised number; both round halves to even.
  round,     // round(min(max(x, alpha), beta)), alpha and beta whole
  quantise,  // the same of x / step
};
const char* activation_name(Activation activation);

enum class Residual : std::uint8_t {
  none = 0,
  before_activation,  // act(W x + b + r)
  after_activation,   // act(W x + b) + r
};

struct Epilogue {
  Activation activation = Activation::none;
  float alpha = 0.0f, beta = 0.0f, step = 1.0f;
  Residual residual = Residual::none;

  bool operator==(const Epilogue& other) const {
    return activation == other.activation && alpha == other.alpha && beta == other.beta &&
           step == other.step && residual == other.residual;
  }
};

struct PlanOptions {
  Isa isa = active_isa();
  const char* kernel = nullptr;  // a name of the kernel list; null = the cheapest that applies
  bool generate_code = true;  // allow run-time generated kernels (ONNXPRUNE_JIT=0 forbids them too)
  std::int32_t threads = 1;   // how many workers the caller will use: shapes the work items
  Epilogue epilogue;
  // Null, or [out_channels]: sums, bias included, are multiplied by these before the activation. Inputs
  // and weights are then whole numbers whose sums are below 2^24, which no kernel rounds on the way:
  // integer arithmetic in floats. Not with a residual before the activation.
  const float* factor = nullptr;
};

// What a run works on. Pointers to the first plane of the first image. `residual` has the layout of
// the output; it must not overlap it, unless it is the output itself and the plan allows that. Input
// and output must not overlap.
struct RunArgs {
  const float* in = nullptr;
  float* out = nullptr;
  const float* residual = nullptr;
  std::int32_t images = 1;
  std::int64_t in_image_stride = 0, out_image_stride = 0;  // floats; residual as out
};

struct PlanInfo {
  const char* kernel = "";  // e.g. "spmm_csr_f32_avx512"
  Isa isa = Isa::scalar;
  std::int64_t nnz = 0;         // non-zero weights
  std::int64_t bytes = 0;       // memory held, generated code included
  std::int64_t code_bytes = 0;  // generated code
  double build_seconds = 0.0;   // time `make_plan` took
  double cycles = 0.0;          // estimate per image, see estimate_cycles
  bool flat = false;            // one flat pixel vector (fast) or row by row
};

// Immutable and re-entrant: any number of threads may run the same plan at once.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual const PlanInfo& info() const = 0;
  virtual const PlaneLayout& in_layout() const = 0;
  virtual const PlaneLayout& out_layout() const = 0;
  // Independent work items for `images` images; spread the range 0 .. work_items over threads.
  virtual std::int64_t work_items(std::int32_t images) const = 0;
  // Whether the output may take the residual's place: RunArgs::residual == RunArgs::out.
  virtual bool residual_in_place() const { return false; }
  // Scratch for each concurrent call of run, 64-byte aligned; may be 0 (then null is accepted).
  virtual std::size_t scratch_bytes() const = 0;
  // Runs the items first .. last-1. All items together write every pixel of the output and every
  // zero border of its planes.
  virtual void run(const RunArgs& args, std::int64_t first, std::int64_t last,
                   void* scratch) const = 0;
};
using PlanPtr = std::unique_ptr<Plan>;

// `unsupported` when the layouts do not fit the geometry (pads missing, phases missing) or no
// kernel of that name applies. `out` may have phases (stride > 1): the output is then scattered
// into them.
Status make_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                 const PlanOptions& options, PlanPtr* plan);

// ---- cost model: cycles of one core at its FMA peak width, for deciding what to claim
// ------------ `pixels` = out_height * pitch for images, tokens for matrices (1 = matrix-vector).
double estimate_cycles(const Weights& weights, std::int64_t pixels, Isa isa, bool generate_code);
// The same before packing, from an analysis.
double estimate_cycles(const ConvGeometry& geometry, const Analysis& analysis, std::int64_t pixels,
                       Isa isa, bool generate_code);
// Whether a multiply-add of 512 bits takes as long as two of 256 (measured once). If not, two of them
// start every cycle, and loads, code and the second-level cache fall behind first.
bool wide_is_split();
// A depth-wise convolution that walks planes, with so many output pixels.
double estimate_window_cycles(const ConvGeometry& geometry, std::int32_t height, std::int32_t width,
                              Isa isa);
// A good dense convolution / matrix product (as onnxruntime's) of that geometry.
double estimate_dense_cycles(const ConvGeometry& geometry, std::int64_t pixels, Isa isa);

// ---- the list of kernels ------------------------------------------------------------------------
struct KernelEntry {
  const char* name;
  Isa isa;
  bool generated;  // needs executable memory
};
// All kernels compiled in, best first; `count` receives their number.
const KernelEntry* kernel_list(std::size_t* count);
// True when run-time code can be generated here (ISA, executable memory, ONNXPRUNE_JIT).
// `reason` receives a static text when it cannot; may be null.
bool code_generation_available(const char** reason);

}  // namespace onnxprune::kernels
