#include "ep/graph.h"

namespace onnxprune::ep {

using abi::check;
using abi::fn;

int Graph::intern(const abi::ValueInfo* info) {
  if (info == nullptr) return -1;
  const char* text = nullptr;
  check(fn().GetValueInfoName(info, &text));
  if (text == nullptr || text[0] == '\0') return -1;
  auto [where, fresh] = index_.emplace(text, static_cast<int>(values_.size()));
  if (!fresh) return where->second;
  GraphValue value;
  value.name = text;
  value.handle = info;
  value.ranked = abi::describe(info, &value.desc);
  check(fn().ValueInfo_IsConstantInitializer(info, &value.constant));
  check(fn().ValueInfo_IsGraphOutput(info, &value.graph_output));
  values_.push_back(std::move(value));
  return where->second;
}

Graph::Graph(const abi::Graph* handle, Extent extent) {
  size_t count = 0;
  std::vector<const abi::ValueInfo*> infos;
  check(fn().Graph_GetNumInputs(handle, &count));
  infos.resize(count);
  if (count > 0) check(fn().Graph_GetInputs(handle, infos.data(), count));
  for (const abi::ValueInfo* info : infos) inputs_.push_back(intern(info));

  check(fn().Graph_GetNumNodes(handle, &count));
  std::vector<const abi::Node*> handles(count);
  if (count > 0) check(fn().Graph_GetNodes(handle, handles.data(), count));
  nodes_.reserve(count);
  for (const abi::Node* node : handles) {
    GraphNode out;
    const char* text = nullptr;
    out.handle = node;
    check(fn().Node_GetOperatorType(node, &text));
    out.op = text ? text : "";
    check(fn().Node_GetDomain(node, &text));
    out.domain = text ? text : "";
    if (out.domain == "ai.onnx") out.domain.clear();
    check(fn().Node_GetName(node, &text));
    out.name = text ? text : "";
    check(fn().Node_GetSinceVersion(node, &out.since));
    const int self = static_cast<int>(nodes_.size());
    check(fn().Node_GetNumInputs(node, &count));
    infos.assign(count, nullptr);
    if (count > 0) check(fn().Node_GetInputs(node, infos.data(), count));
    for (const abi::ValueInfo* info : infos) {
      int value = intern(info);
      out.in.push_back(value);
      if (value >= 0) values_[static_cast<size_t>(value)].consumers.push_back(self);
    }
    check(fn().Node_GetNumOutputs(node, &count));
    infos.assign(count, nullptr);
    if (count > 0) check(fn().Node_GetOutputs(node, infos.data(), count));
    for (const abi::ValueInfo* info : infos) {
      int value = intern(info);
      out.out.push_back(value);
      if (value >= 0) values_[static_cast<size_t>(value)].producer = self;
    }
    nodes_.push_back(std::move(out));
  }
  check(fn().Graph_GetNumOutputs(handle, &count));
  infos.assign(count, nullptr);
  if (count > 0) check(fn().Graph_GetOutputs(handle, infos.data(), count));
  for (const abi::ValueInfo* info : infos) outputs_.push_back(intern(info));
  if (extent == Extent::part) {
    // onnxruntime 1.23 aborts when asked for readers outside of the part. What they read is an output.
    for (GraphValue& value : values_) value.uses = value.consumers.size();
    for (int v : outputs_)
      if (v >= 0) values_[static_cast<size_t>(v)].graph_output = true;
    return;
  }
  for (GraphValue& value : values_) {
    if (value.producer >= 0) check(fn().ValueInfo_GetValueNumConsumers(value.handle, &value.uses));
  }
}

std::string Graph::label(const GraphNode& node) const {
  if (!node.name.empty()) return node.name;
  for (int out : node.out) {
    if (out >= 0) return value(out).name;
  }
  return node.op;
}

int64_t Constant::size() const {
  int64_t n = 1;
  for (int64_t d : desc.dims) n *= d;
  return n;
}

Constant constant(const GraphValue& value) {
  const abi::Value* tensor = nullptr;
  check(fn().ValueInfo_GetInitializerValue(value.handle, &tensor));
  if (tensor == nullptr) throw abi::Error("onnxprune: no data for constant '" + value.name + "'");
  Constant out;
  out.desc = abi::describe(tensor);
  out.data = abi::tensor_data(tensor);
  return out;
}

namespace {

const abi::OpAttr* find(const GraphNode& node, const char* name, abi::AttrType type) {
  const abi::OpAttr* attr = nullptr;
  if (abi::Status* status = fn().Node_GetAttributeByName(node.handle, name, &attr)) {
    fn().ReleaseStatus(status);
    return nullptr;
  }
  if (attr == nullptr) return nullptr;
  abi::AttrType actual = abi::kAttrUndefined;
  check(fn().OpAttr_GetType(attr, &actual));
  if (type != abi::kAttrUndefined && actual != type)
    throw abi::Error("onnxprune: attribute '" + std::string(name) + "' of " + node.op + " '" + node.name +
                     "' has an unexpected type");
  return attr;
}

// Size in bytes of an attribute's payload. The interface answers a query without a buffer with an
// error that carries the size; the error itself means nothing.
size_t payload(const abi::OpAttr* attr, abi::AttrType type) {
  size_t size = 0;
  if (abi::Status* status = fn().ReadOpAttr(attr, type, nullptr, 0, &size)) fn().ReleaseStatus(status);
  return size;
}

}  // namespace

bool has_attr(const GraphNode& node, const char* name) {
  return find(node, name, abi::kAttrUndefined) != nullptr;
}

int64_t attr_int(const GraphNode& node, const char* name, int64_t fallback) {
  const abi::OpAttr* attr = find(node, name, abi::kAttrInt);
  if (attr == nullptr) return fallback;
  int64_t value = 0;
  size_t size = 0;
  check(fn().ReadOpAttr(attr, abi::kAttrInt, &value, sizeof value, &size));
  return value;
}

float attr_float(const GraphNode& node, const char* name, float fallback) {
  const abi::OpAttr* attr = find(node, name, abi::kAttrFloat);
  if (attr == nullptr) return fallback;
  float value = 0;
  size_t size = 0;
  check(fn().ReadOpAttr(attr, abi::kAttrFloat, &value, sizeof value, &size));
  return value;
}

std::vector<int64_t> attr_ints(const GraphNode& node, const char* name) {
  const abi::OpAttr* attr = find(node, name, abi::kAttrInts);
  if (attr == nullptr) return {};
  size_t size = payload(attr, abi::kAttrInts);
  std::vector<int64_t> out(size / sizeof(int64_t));
  if (!out.empty()) check(fn().ReadOpAttr(attr, abi::kAttrInts, out.data(), size, &size));
  return out;
}

std::string attr_string(const GraphNode& node, const char* name, const std::string& fallback) {
  const abi::OpAttr* attr = find(node, name, abi::kAttrString);
  if (attr == nullptr) return fallback;
  size_t size = payload(attr, abi::kAttrString);
  std::string out(size, '\0');
  if (size > 0) check(fn().ReadOpAttr(attr, abi::kAttrString, out.data(), size, &size));
  return out;
}

// They come one after the other, each with a closing zero.
std::vector<std::string> attr_strings(const GraphNode& node, const char* name) {
  const abi::OpAttr* attr = find(node, name, abi::kAttrStrings);
  if (attr == nullptr) return {};
  size_t size = payload(attr, abi::kAttrStrings);
  std::string all(size, '\0');
  if (size > 0) check(fn().ReadOpAttr(attr, abi::kAttrStrings, all.data(), size, &size));
  std::vector<std::string> out;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\0', begin), all.size());
    out.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

}  // namespace onnxprune::ep
