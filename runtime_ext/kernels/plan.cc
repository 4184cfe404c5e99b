// Choice of a kernel and the checks every plan needs.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "dispatch.h"
#include "phases.h"
#include "plan_impl.h"

namespace onnxprune::kernels {
namespace {

bool same_size(const PlaneLayout& out, const ConvGeometry& g, const PlaneLayout& in) {
  return out.height == g.out_height(in.height) && out.width == g.out_width(in.width) && out.height > 0 && out.width > 0;
}

// The best kernel of this instruction set for the storage; kernel_count() when there is none.
std::size_t choose_kernel(const WeightsImpl& w, Isa isa) {
  const double density = static_cast<double>(w.nnz()) / std::max<double>(1.0, static_cast<double>(w.rows()) * static_cast<double>(w.columns()));
  const std::int32_t per_group = w.shape.out_channels / w.shape.groups;
  Family family = Family::csr;
  std::int32_t height = 1;
  if (per_group < 4) {
    family = Family::csr;  // depthwise and its like: nothing to share between rows
  } else if (w.kind == Storage::dense) {
    family = Family::block;
    height = 8;
  } else if (w.kind == Storage::block && w.block_rows >= 4) {
    family = Family::block;
    height = w.block_rows;
  } else if (density > 0.25 || w.kind == Storage::block) {
    family = Family::rows4;
  }
  for (int attempt = 0; attempt < 2; ++attempt) {
    for (std::size_t i = 0; i < kernel_count(); ++i) {
      const KernelRecord& record = kernel_record(i);
      if (record.entry.isa != isa || record.family != family || record.entry.generated) continue;
      if (family == Family::block && record.tiles().block_rows > height) continue;
      return i;
    }
    family = Family::csr;
  }
  return kernel_count();
}

}  // namespace

const char* activation_name(Activation activation) {
  static const char* const names[] = {"none",    "relu", "leaky_relu", "clip",     "hard_swish", "hard_sigmoid",
                                      "sigmoid", "silu", "tanh",       "gelu_erf", "gelu_tanh"};
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
    default: clamp.enough = false;
  }
  return clamp;
}

bool column_offsets(const ConvGeometry& g, const PlaneLayout& in, std::vector<std::int32_t>* offsets) {
  const std::vector<std::int64_t> taps = tap_offsets(g, in);
  if (in.image_floats(g.in_channels) + in.plane_stride > INT32_MAX) return false;
  offsets->clear();
  offsets->reserve(static_cast<std::size_t>(g.in_channels) * taps.size());
  for (std::int64_t c = 0; c < g.in_channels; ++c) {
    for (const std::int64_t tap : taps) offsets->push_back(static_cast<std::int32_t>(c * in.plane_stride + tap));
  }
  return true;
}

std::vector<float> padded_bias(const WeightsImpl& weights) {
  std::vector<float> bias(static_cast<std::size_t>(weights.rows() + 15) / 16 * 16, 0.0f);
  if (weights.bias() != nullptr) std::copy_n(weights.bias(), weights.rows(), bias.begin());
  return bias;
}

Status make_tuned_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                       const PlanOptions& options, const Tuning& tuning, PlanPtr* plan) {
  return guarded([&]() -> Status {
    const auto start = std::chrono::steady_clock::now();
    const auto& w = static_cast<const WeightsImpl&>(weights);
    if (!isa_supported(options.isa)) {
      return failure(Code::unsupported, "plan: this machine does not have %s", isa_name(options.isa));
    }
    if (!same_size(out, w.shape, in)) {
      return failure(Code::invalid_argument, "plan: the output layout is %d x %d, the convolution yields %d x %d", out.height,
                     out.width, w.shape.out_height(in.height), w.shape.out_width(in.width));
    }
    PlanRequest request{w, in, out, options, tuning};
    Status status;
    if (in.plane_stride == 1) {
      status = make_vector_plan(request, plan);
    } else {
      if (!reads_within(w.shape, in)) {
        return failure(Code::unsupported, "plan: the input layout lacks the padding or the phases of this convolution");
      }
      std::size_t kernel = choose_kernel(w, options.isa);
      if (options.kernel != nullptr) {
        kernel = find_kernel(options.kernel);
        if (kernel < kernel_count() && kernel_record(kernel).entry.isa != options.isa) kernel = kernel_count();
      }
      if (kernel >= kernel_count()) {
        return failure(Code::unsupported, "plan: no kernel '%s' for %s", options.kernel == nullptr ? "" : options.kernel,
                       isa_name(options.isa));
      }
      const bool generated = kernel_record(kernel).entry.generated;
      const char* reason = "";
      if (generated && !(options.generate_code && code_generation_available(&reason))) {
        return failure(Code::unsupported, "plan: no generated code (%s)", reason);
      }
      status = generated ? make_column_plan(request, kernel, plan) : make_tile_plan(request, kernel, plan);
    }
    if (status.ok()) {
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      const_cast<PlanInfo&>((*plan)->info()).build_seconds = taken.count();
    }
    return status;
  });
}

Status make_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out, const PlanOptions& options,
                 PlanPtr* plan) {
  return make_tuned_plan(weights, in, out, options, Tuning{}, plan);
}

}  // namespace onnxprune::kernels
