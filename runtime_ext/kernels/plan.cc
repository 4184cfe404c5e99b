// Choice of a kernel and the checks every plan needs.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "cost.h"
#include "phases.h"
#include "plan_impl.h"

namespace onnxprune::kernels {
namespace {

bool same_size(const PlaneLayout& out, const ConvGeometry& g, const PlaneLayout& in) {
  return out.height == g.out_height(in.height) && out.width == g.out_width(in.width) &&
         out.height > 0 && out.width > 0;
}

Status make_with(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  const KernelRecord& record = kernel_record(kernel);
  if (record.family == Family::winograd) return make_winograd_plan(request, kernel, plan);
  return record.entry.generated ? make_column_plan(request, kernel, plan)
                   : make_tile_plan(request, kernel, plan);
}

// The kernel that walks planes, unless another one is asked for.
bool make_walking_plan(const PlanRequest& request, PlanPtr* plan) {
  for (std::size_t i = 0; i < kernel_count() && walks_planes(request.weights.shape); ++i) {
    const KernelEntry& entry = kernel_record(i).entry;
    if (kernel_record(i).family != Family::window || entry.isa != request.options.isa) continue;
    if (request.options.kernel != nullptr && std::strcmp(request.options.kernel, entry.name) != 0)
      continue;
    *plan = make_window_plan(request, entry.name);
    static_cast<PlanBase&>(**plan).set_cycles(estimate_window_cycles(
        request.weights.shape, request.out.height, request.out.width, entry.isa));
    return true;
  }
  return false;
}

Status make_pixel_plan(const PlanRequest& request, PlanPtr* plan) {
  const PlanOptions& o = request.options;
  const char* reason = "not wanted";
  const bool code = o.generate_code && code_generation_available(&reason);
  const std::int64_t pixels = flat_pixels(request.out.height, request.out.width, request.in.pitch);
  const CostInput cost = cost_input(request.weights, pixels);
  std::vector<std::size_t> order = rank_kernels(cost, o.isa, code);
  if (o.kernel != nullptr) {
    const std::size_t wanted = find_kernel(o.kernel);
    if (wanted >= kernel_count() || kernel_record(wanted).family == Family::window ||
        kernel_record(wanted).entry.isa != o.isa) {
      return failure(Code::unsupported, "plan: no kernel '%s' for %s", o.kernel, isa_name(o.isa));
    }
    if (kernel_record(wanted).entry.generated && !code) {
      return failure(Code::unsupported, "plan: no generated code: %s", reason);
    }
    order = {wanted};
  }
  // The next best takes over when one cannot do it (executable memory refused, displacements too
  // long).
  Status status = failure(Code::unsupported, "plan: no kernel for %s", isa_name(o.isa));
  for (const std::size_t kernel : order) {
    status = make_with(request, kernel, plan);
    if (status.ok()) {
      static_cast<PlanBase&>(**plan).set_cycles(kernel_cycles(kernel_record(kernel), cost));
      break;
    }
  }
  return status;
}

}  // namespace

const char* activation_name(Activation activation) {
  static const char* const names[] = {"none",       "relu",         "leaky_relu", "clip",
                                      "hard_swish", "hard_sigmoid", "sigmoid",    "silu",
                                      "tanh",       "gelu_erf",     "gelu_tanh",  "round",
                                      "quantise"};
  const auto i = static_cast<std::size_t>(activation);
  return i < sizeof names / sizeof names[0] ? names[i] : "unknown";
}

Clamp clamp_of(const Epilogue& e) {
  Clamp clamp;
  clamp.low = -std::numeric_limits<float>::infinity();
  clamp.high = std::numeric_limits<float>::infinity();
  switch (e.activation) {
    case Activation::none: break;
    case Activation::relu: clamp.low = 0.0f; break;
    case Activation::clip:
      clamp.low = e.alpha;
      clamp.high = e.beta;
      break;
    case Activation::round:
      clamp.low = e.alpha;
      clamp.high = e.beta;
      clamp.rounds = true;
      break;
    default: clamp.enough = false;
  }
  return clamp;
}

bool column_offsets(const ConvGeometry& g, const PlaneLayout& in,
                    std::vector<std::int32_t>* offsets) {
  const std::vector<std::int64_t> taps = tap_offsets(g, in);
  if (in.image_floats(g.in_channels) + in.plane_stride > INT32_MAX) return false;
  offsets->clear();
  offsets->reserve(static_cast<std::size_t>(g.in_channels) * taps.size());
  for (std::int64_t c = 0; c < g.in_channels; ++c) {
    for (const std::int64_t tap : taps)
      offsets->push_back(static_cast<std::int32_t>(c * in.plane_stride + tap));
  }
  return true;
}

std::vector<float> padded_bias(const WeightsImpl& weights) {
  std::vector<float> bias(static_cast<std::size_t>(weights.rows() + 15) / 16 * 16, 0.0f);
  if (weights.bias() != nullptr) std::copy_n(weights.bias(), weights.rows(), bias.begin());
  return bias;
}

std::vector<float> padded_factor(const PlanRequest& request) {
  if (request.options.factor == nullptr) return {};
  const std::int64_t rows = request.weights.rows();
  std::vector<float> factor(static_cast<std::size_t>(rows + 15) / 16 * 16, 1.0f);
  std::copy_n(request.options.factor, rows, factor.begin());
  return factor;
}

Status make_tuned_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                       const PlanOptions& options, const Tuning& tuning, PlanPtr* plan) {
  return guarded([&]() -> Status {
    const auto start = std::chrono::steady_clock::now();
    const auto& w = static_cast<const WeightsImpl&>(weights);
    if (!isa_supported(options.isa)) {
      return failure(Code::unsupported, "plan: this machine does not have %s",
                     isa_name(options.isa));
    }
    if (!same_size(out, w.shape, in)) {
      return failure(Code::invalid_argument,
                     "plan: the output layout is %d x %d, the convolution yields %d x %d",
                     out.height, out.width, w.shape.out_height(in.height),
                     w.shape.out_width(in.width));
    }
    if (options.factor != nullptr && options.epilogue.residual == Residual::before_activation) {
      return failure(Code::unsupported,
                     "plan: a residual is not multiplied by the factors of the rows");
    }
    PlanRequest request{w, in, out, options, tuning};
    Status status;
    if (in.plane_stride == 1) {
      status = make_vector_plan(request, plan);
    } else {
      if (!reads_within(w.shape, in)) {
        return failure(
            Code::unsupported,
            "plan: the input layout lacks the padding or the phases of this convolution");
      }
      if (!make_walking_plan(request, plan)) status = make_pixel_plan(request, plan);
    }
    if (status.ok()) {
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      static_cast<PlanBase&>(**plan).set_build_seconds(taken.count());
    }
    return status;
  });
}

Status make_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                 const PlanOptions& options, PlanPtr* plan) {
  return make_tuned_plan(weights, in, out, options, Tuning{}, plan);
}

}  // namespace onnxprune::kernels
