#include "ep/custom_ops.h"

#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "ep/executor.h"
#include "ep/operators.h"
#include "ep/packed.h"
#include "ep/reference.h"
#include "ep/training_ops.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMostDense = int64_t{1} << 31;  // elements a weight may have to be unpacked

using abi::check;
using abi::fn;

Blob constant_blob(const abi::KernelInfo* info, size_t index) {
  const abi::Value* value = info_constant(info, index);
  if (value == nullptr) throw BlobError("packed weight: must be a constant");
  const abi::TensorDesc desc = abi::describe(value);
  if (desc.type != abi::kUint8 || desc.dims.size() != 1) throw BlobError("packed weight: must be uint8 of one axis");
  Blob blob(static_cast<const uint8_t*>(abi::tensor_data(value)), static_cast<size_t>(desc.dims[0]));
  check_declared(blob, info_ints(info, "weight_shape"), info_int(info, "weight_dtype", 0));
  return blob;
}

void set_windows(const std::vector<Window>& windows, kernels::ConvGeometry* g) {
  const Window& w = windows.back();
  const Window h = windows.size() > 1 ? windows[0] : Window{};
  auto narrow = [](int64_t v) { return static_cast<int32_t>(v); };  // bounded by check_conv
  g->stride_h = narrow(h.stride), g->stride_w = narrow(w.stride);
  g->dilation_h = narrow(h.dilation), g->dilation_w = narrow(w.dilation);
  g->pad_top = narrow(h.pad_begin), g->pad_bottom = narrow(h.pad_end);
  g->pad_left = narrow(w.pad_begin), g->pad_right = narrow(w.pad_end);
}

// ---- kernels ------------------------------------------------------------------------------------------

// Convolutions, products and their added term. onnxruntime keeps the packed constant alive as long as
// the kernel, so programs are made from it when an input shape first needs them.
class WeightedKernel final : public OpKernel {
 public:
  enum Kind { conv, gemm, matmul };

  WeightedKernel(Kind kind, const abi::KernelInfo* info)
      : kind_(kind), label_(node_name(info)), blob_(constant_blob(info, 1)), dims_(blob_.dims()) {
    if (blob_.dtype() != abi::kFloat) throw BlobError("packed weight: only float32 can be computed with");
    const int64_t input = info_int(info, "weight_input", 1);
    if (input != 1 && !(kind == matmul && input == 0)) throw BlobError("packed weight: weight_input is out of range");
    left_ = input == 0;
    if (kind == conv) {
      conv_.groups = info_int(info, "group", 1);
      conv_.kernel = info_ints(info, "kernel_shape");
      conv_.strides = info_ints(info, "strides");
      conv_.dilations = info_ints(info, "dilations");
      conv_.pads = info_ints(info, "pads");
      conv_.auto_pad = info_string(info, "auto_pad", "NOTSET");
      check_conv(&conv_, dims_);
    } else if (kind == gemm) {
      alpha_ = info_float(info, "alpha", 1.0f);
      beta_ = info_float(info, "beta", 1.0f);
      transposed_input_ = info_int(info, "transA", 0) != 0;
      transposed_weight_ = info_int(info, "transB", 0) != 0;
      if (dims_.size() != 2) throw BlobError("packed weight: Gemm needs a matrix, not shape " + to_string(dims_));
    } else if (dims_.empty()) {
      throw BlobError("packed weight: MatMul needs at least one axis");
    }
    // Walk the whole blob now: a damaged one is refused when the model is loaded, not when it runs.
    struct Nothing : Blob::Sink {
      void entry(int64_t, const uint8_t*) override {}
    } nothing;
    blob_.visit(&nothing);
    fast_ = suits_kernels();
  }

  void compute(abi::KernelContext* context) override {
    const Input x = run_input(context, 0);
    if (x.data == nullptr) throw abi::Error("onnxprune: input 0 is missing", abi::kInvalidArgument);
    const Input term = kind_ == matmul ? Input{} : run_input(context, 2);
    const std::vector<Window> windows = kind_ == conv ? conv_windows(conv_, dims_, x.shape) : std::vector<Window>{};
    const Shape shape = output_shape(x.shape, windows);
    if (fast_ && (kind_ == conv || (x.shape.size() >= 2 && x.shape.size() >= dims_.size()))) {
      executor_for(windows, x.shape.size())->run(context);
    } else {
      compute_plainly(x, windows, run_output(context, shape), shape);
    }
    if (term.data == nullptr) return;
    Shape term_shape = term.shape;
    if (kind_ == conv) term_shape.resize(dims_.size() - 1, 1);  // [O] -> [O, 1, ...]
    add_broadcast(run_output(context, shape), shape, term.data, term_shape, kind_ == gemm ? beta_ : 1.0f);
  }

 private:
  // Fills geometry_ (without windows' pads) and strides_ when the sparse kernels can take the weight.
  bool suits_kernels() {
    for (int64_t d : dims_)
      if (d < 1 || d > (1 << 24)) return false;
    const size_t rank = dims_.size();
    if (kind_ == conv) {
      if ((rank != 3 && rank != 4) || dims_[1] * conv_.groups > (1 << 24)) return false;
      geometry_.out_channels = static_cast<int32_t>(dims_[0]);
      geometry_.in_channels = static_cast<int32_t>(dims_[1] * conv_.groups);
      geometry_.groups = static_cast<int32_t>(conv_.groups);
      geometry_.kernel_h = rank == 4 ? static_cast<int32_t>(dims_[2]) : 1;
      geometry_.kernel_w = static_cast<int32_t>(dims_[rank - 1]);
      strides_ = {geometry_.columns(), 1};
      return kernels::check_geometry(geometry_).ok();
    }
    if (rank < 2 || transposed_input_) return false;
    for (size_t i = 0; i + 2 < rank; ++i)
      if (dims_[i] != 1) return false;
    const int64_t rows = dims_[rank - 2], columns = dims_[rank - 1];
    const bool by_rows = left_ || transposed_weight_;  // stored [out, in]
    geometry_ = kernels::matmul_geometry(static_cast<int32_t>(by_rows ? columns : rows),
                                         static_cast<int32_t>(by_rows ? rows : columns));
    strides_ = by_rows ? MatrixStrides{columns, 1} : MatrixStrides{1, columns};
    return kernels::check_geometry(geometry_).ok();
  }

  // Automatic pads depend on the input size: one program for each set of pads in use.
  Executor* executor_for(const std::vector<Window>& windows, size_t rank) {
    kernels::ConvGeometry g = geometry_;
    if (kind_ == conv) set_windows(windows, &g);
    const std::array<int32_t, 4> key{g.pad_top, g.pad_left, g.pad_bottom, g.pad_right};
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Executor>& executor = executors_[key];
    if (executor) return executor.get();
    Program program;
    program.domain = kind_ == conv ? Domain::image : left_ ? Domain::left : Domain::tokens;
    program.value_count = 2;
    program.inputs = {0};
    program.outputs = {1};
    program.input_shapes = {Shape(rank, -1)};
    Op op;
    op.kind = OpKind::conv;
    op.label = label_;
    op.nodes = {label_};
    op.in = {0};
    op.out = 1;
    op.geometry = g;
    op.source = packed_source(blob_, g, strides_);
    if (alpha_ != 1.0f) op.source->row_scale.assign(static_cast<size_t>(g.out_channels), alpha_);
    program.ops.push_back(std::move(op));
    pack_weights(&program);
    executor = std::make_unique<Executor>(std::move(program), ExecutorOptions{});
    return executor.get();
  }

  Shape output_shape(const Shape& x, const std::vector<Window>& windows) const {
    if (kind_ == conv) return conv_output_shape(windows, dims_, x);
    if (kind_ == matmul) return left_ ? matmul_output_shape(dims_, x) : matmul_output_shape(x, dims_);
    if (x.size() != 2) throw abi::Error("onnxprune: '" + label_ + "': Gemm needs a matrix, not shape " + to_string(x), abi::kInvalidArgument);
    return {x[transposed_input_ ? 1 : 0], dims_[transposed_weight_ ? 0 : 1]};
  }

  void compute_plainly(const Input& x, const std::vector<Window>& windows, float* y, const Shape& shape) {
    const float* w = dense();
    if (kind_ == conv) {
      reference_conv(windows, conv_.groups, x.data, x.shape, w, dims_, y, shape);
    } else if (kind_ == gemm) {
      reference_gemm(x.data, x.shape, transposed_input_, w, dims_, transposed_weight_, alpha_, y);
    } else if (left_) {
      reference_matmul(w, dims_, x.data, x.shape, y);
    } else {
      reference_matmul(x.data, x.shape, w, dims_, y);
    }
  }

  const float* dense() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (dense_.empty()) {
      if (blob_.elements() > kMostDense) throw BlobError("packed weight: too large to unpack");
      dense_.resize(static_cast<size_t>(blob_.elements()));
      blob_.decode(reinterpret_cast<uint8_t*>(dense_.data()));
    }
    return dense_.data();
  }

  Kind kind_;
  std::string label_;
  Blob blob_;
  Shape dims_;
  ConvAttributes conv_;
  float alpha_ = 1.0f, beta_ = 1.0f;
  bool transposed_input_ = false, transposed_weight_ = false, left_ = false, fast_ = false;
  kernels::ConvGeometry geometry_;
  MatrixStrides strides_;
  std::mutex mutex_;
  std::vector<float> dense_;
  std::map<std::array<int32_t, 4>, std::unique_ptr<Executor>> executors_;
};

// The dense constant, decoded once when the model is loaded.
class DecodeKernel final : public OpKernel {
 public:
  explicit DecodeKernel(const abi::KernelInfo* info) {
    Blob blob = constant_blob(info, 0);
    if (blob.elements() > kMostDense) throw BlobError("packed weight: too large to unpack");
    bytes_.resize(static_cast<size_t>(blob.elements() * blob.element_bytes()));
    blob.decode(bytes_.data());
    shape_ = blob.dims();
    dtype_ = blob.dtype();
  }
  void compute(abi::KernelContext* context) override {
    const abi::Value* value = output_value(context, shape_);
    if (abi::describe(value).type != dtype_)
      throw abi::Error("onnxprune: SparseDecode: the model gives its result another element type than the packed weight has",
                       abi::kInvalidArgument);
    if (!bytes_.empty()) std::memcpy(const_cast<void*>(abi::tensor_data(value)), bytes_.data(), bytes_.size());
  }

 private:
  std::vector<uint8_t> bytes_;
  Shape shape_;
  int dtype_ = 0;
};

// Element type and shape of a decoded constant, from what the node says of it.
void infer_decoded(abi::ShapeInferContext* context) {
  const abi::OpAttr *shape_attr = nullptr, *type_attr = nullptr;
  if (absent(fn().ShapeInferContext_GetAttribute(context, "weight_dtype", &type_attr)) || type_attr == nullptr)
    throw abi::Error("onnxprune: SparseDecode lacks the attribute weight_dtype", abi::kInvalidArgument);
  int64_t type = 0;
  size_t size = 0;
  check(fn().ReadOpAttr(type_attr, abi::kAttrInt, &type, sizeof type, &size));
  Shape shape;
  if (!absent(fn().ShapeInferContext_GetAttribute(context, "weight_shape", &shape_attr)) && shape_attr != nullptr) {
    size = 0;
    absent(fn().ReadOpAttr(shape_attr, abi::kAttrInts, nullptr, 0, &size));  // fails, but tells the size
    shape.resize(size / sizeof(int64_t));
    if (!shape.empty()) check(fn().ReadOpAttr(shape_attr, abi::kAttrInts, shape.data(), size, &size));
  }
  abi::TensorInfo* info = nullptr;
  check(fn().CreateTensorTypeAndShapeInfo(&info));
  abi::Status* status = fn().SetTensorElementType(info, static_cast<abi::ElementType>(type));
  if (status == nullptr) status = fn().SetDimensions(info, shape.data(), shape.size());
  if (status == nullptr) status = fn().ShapeInferContext_SetOutputTypeShape(context, 0, info);
  fn().ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

// ---- operators ----------------------------------------------------------------------------------------

constexpr Operator::Port kData{abi::kFloat}, kPacked{abi::kUint8}, kTerm{abi::kFloat, abi::kOptional};

template <WeightedKernel::Kind kind>
OpKernel* make_weighted(const abi::KernelInfo* info) {
  return new WeightedKernel(kind, info);
}

OpKernel* make_decode(const abi::KernelInfo* info) { return new DecodeKernel(info); }

}  // namespace

abi::CustomOpDomain* custom_op_domain() {
  static std::mutex mutex;
  static abi::CustomOpDomain* domain = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (domain != nullptr) return domain;
  static const Operator operators[] = {
      {"SparseConv", {kData, kPacked, kTerm}, abi::kFloat, make_weighted<WeightedKernel::conv>},
      {"SparseGemm", {kData, kPacked, kTerm}, abi::kFloat, make_weighted<WeightedKernel::gemm>},
      {"SparseMatMul", {kData, kPacked}, abi::kFloat, make_weighted<WeightedKernel::matmul>},
      {"SparseDecode", {kPacked}, abi::kUndefined, make_decode, infer_decoded}};
  abi::CustomOpDomain* made = nullptr;
  check(fn().CreateCustomOpDomain(kPackedDomain, &made));
  for (const Operator& op : operators) check(fn().CustomOpDomain_Add(made, &op));
  add_training_ops(made);
  domain = made;
  return domain;
}

}  // namespace onnxprune::ep
