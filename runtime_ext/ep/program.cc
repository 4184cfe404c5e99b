#include "ep/program.h"

#include <stdexcept>

#include "abi/types.h"
#include "ep/packed.h"
#include "ep/recurrent.h"
#include "kernels/geometry_fields.h"

namespace onnxprune::ep {

int32_t operand_type(const Op& op, size_t k) {
  if (op.kind == OpKind::recurrent && k == 1 && (op.recurrent->operands & kLengths)) return abi::kInt32;
  if (op.kind == OpKind::lookup) return abi::kInt64;
  if (op.kind != OpKind::attention || k != 3) return abi::kFloat;
  switch (op.attention->mask_of) {
    case AttentionSpec::MaskOf::floats: return abi::kFloat;
    case AttentionSpec::MaskOf::shown_bytes:
    case AttentionSpec::MaskOf::hidden_bytes: return abi::kBool;
    case AttentionSpec::MaskOf::shown_ints: return abi::kInt32;
  }
  return abi::kFloat;
}

bool enters_as_is(int32_t type) {
  return type == abi::kFloat || type == abi::kInt32 || type == abi::kInt64 || type == abi::kBool;
}

Digest weight_digest(const Op& op) {
  const WeightSource& source = *op.source;
  if (!source.content.known()) return {};
  Hasher hasher;
  for (const auto field : kernels::kGeometryFields) hasher.put(op.geometry.*field);
  hasher.put(source.content).put(source.dense.row_stride).put(source.dense.column_stride);
  return hasher.list(source.row_scale).list(source.bias).digest();
}

std::shared_ptr<const kernels::Weights> packed_weight(const Op& op, bool compact) {
  static Shared<const kernels::Weights> held;
  const Digest digest = weight_digest(op);
  const Digest key = digest.known() ? Hasher().put(digest).put(compact).digest() : Digest{};
  if (auto known = held.find(key)) return known;
  const WeightSource& given = *op.source;
  // A blob comes unpacked only here: most of the time it is known.
  const auto unpacked = given.blob ? packed_source(*given.blob, op.geometry, {given.dense.row_stride, given.dense.column_stride}) : nullptr;
  const WeightSource& source = unpacked ? *unpacked : given;
  kernels::PackOptions options;
  options.compact = compact;
  options.row_scale = given.row_scale.empty() ? nullptr : given.row_scale.data();
  options.bias = given.bias.empty() ? nullptr : given.bias.data();
  kernels::WeightsPtr weights;
  kernels::Status status =
      source.sparse_input()
          ? kernels::pack_csr(op.geometry, {source.indptr.data(), 8}, {source.indices.data(), 4}, source.values.data(),
                              static_cast<int64_t>(source.values.size()), options, &weights)
          : kernels::pack_dense(op.geometry, source.dense, options, &weights);
  if (!status.ok())
    throw std::runtime_error("onnxprune: cannot pack the weight of '" + op.label + "': " + status.message);
  return held.keep(key, std::move(weights));
}

void pack_weights(Program* program) {
  for (Op& op : program->ops) {
    if (op.has_weight() && !op.weights) op.weights = packed_weight(op, true);
    op.source.reset();
  }
}

View view(Domain domain, const Shape& shape) {
  View v;
  const size_t rank = shape.size();
  switch (domain) {
    case Domain::image:
      if (rank > 0) v.images = shape[0];
      if (rank > 1) v.channels = shape[1];
      if (rank == 3) v.width = shape[2];
      if (rank == 4) v.height = shape[2], v.width = shape[3];
      break;
    case Domain::tokens:
      for (size_t i = 0; i + 1 < rank; ++i) v.width *= shape[i];
      if (rank > 0) v.channels = shape[rank - 1];
      break;
    case Domain::left:
      for (size_t i = 0; i + 2 < rank; ++i) v.images *= shape[i];
      if (rank > 1) v.channels = shape[rank - 2];
      if (rank > 0) v.width = shape[rank - 1];
      break;
  }
  return v;
}

}  // namespace onnxprune::ep
