// Which physical forms each value of a program takes for one input shape, and their layouts.
#pragma once

#include <map>
#include <vector>

#include "ep/program.h"

namespace onnxprune::ep {

// How a value lies in memory: dense (ONNX's own order, one image at a time), or planes with a phase
// grid (1 x 1 = plain).
struct Form {
  int32_t stride_h = 0, stride_w = 0;  // 0 x 0 = dense
  bool dense() const { return stride_h == 0; }
  bool plain() const { return stride_h == 1 && stride_w == 1; }
  friend bool operator<(const Form& a, const Form& b) {
    return a.stride_h != b.stride_h ? a.stride_h < b.stride_h : a.stride_w < b.stride_w;
  }
  friend bool operator==(const Form& a, const Form& b) {
    return a.stride_h == b.stride_h && a.stride_w == b.stride_w;
  }
};
inline constexpr Form kDense{0, 0};
inline constexpr Form kPlain{1, 1};

struct ValuePlan {
  View view;               // of one image
  bool needed = false;     // somebody reads it
  Form primary = kDense;   // the form its producer writes
  std::map<Form, kernels::PlaneLayout> forms;  // all forms it takes, `primary` included
};

struct OpPlan {
  Form in = kDense;   // form in which the op reads its inputs
  Form out = kDense;  // and writes its output (and reads the residual)
};

struct LayoutPlan {
  std::vector<ValuePlan> values;
  std::vector<OpPlan> ops;
};

// `shapes` are those of one image (image domain) or of the whole tensors.
LayoutPlan plan_layouts(const Program& program, const std::vector<Shape>& shapes);

}  // namespace onnxprune::ep
