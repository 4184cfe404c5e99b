// Where the forms of the values of one instance lie in memory: in the workspace, in a part of another
// value's place, or in one of onnxruntime's own buffers. Steps take handles while they are made; the
// places behind them are known once all have been.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "ep/layouts.h"
#include "ep/program.h"

namespace onnxprune::ep {

struct Place {
  enum Kind : uint8_t { arena, input, output } kind = arena;
  int index = 0;       // of the input or output
  int64_t offset = 0;  // floats
};

class Places {
 public:
  Places(const Program& program, const LayoutPlan& plan);

  // A handle that will hold the place; notes the use by step `step`.
  std::shared_ptr<Place> use(int v, Form form, int step);
  // Lets two forms of a value share memory; false when both are already fixed elsewhere.
  bool alias(int v, Form source, Form target);
  // Lets `v` be the bytes of `of` from float `offset` on; false when it already lies elsewhere.
  bool put(int v, int of, Form form, int64_t offset = 0);
  // Lets the output take the place of a residual that nobody reads afterwards: it is in the caches,
  // and a place less keeps them free.
  void reuse_residual(const Op& op, Form form);
  // Whether `part` lies `offset` floats into `whole`.
  bool lies_in(int part, int whole, Form form, int64_t offset);
  // Outputs that lie elsewhere, to be copied to where they belong at the end.
  const std::vector<std::pair<int, Place>>& output_copies() const { return output_copies_; }
  bool is_output(int v) const;
  // Lays out the workspace and tells all handles; returns the workspace's floats.
  int64_t allocate();

 private:
  struct Buffer {
    int64_t floats = 0;
    int parent = -1;  // buffer it is a part of
    int64_t parent_offset = 0;
    bool bound = false;  // lies in an input or output of the run
    Place place;
    int first = 1 << 30, last = -1;  // steps that use it
  };
  struct Pending {  // a place known only after allocation
    int buffer;
    std::shared_ptr<Place> place;
  };

  static size_t at(int i) { return static_cast<size_t>(i); }
  const ValuePlan& value(int v) const { return plan_.values[at(v)]; }
  const kernels::PlaneLayout& layout(int v, Form form) const { return value(v).forms.at(form); }
  int32_t channels_of(int v) const { return static_cast<int32_t>(value(v).view.channels); }
  int buffer_of(int v, Form form);
  void place_concat_operands();
  void bind_borders();
  bool contains(int outer, int inner) const;
  bool is_input(int v) const;
  int root(int buffer, int64_t* offset) const;

  const Program& program_;
  const LayoutPlan& plan_;
  std::vector<Buffer> buffers_;
  std::map<std::pair<int, Form>, int> buffers_by_form_;
  std::vector<Pending> pending_;
  std::vector<std::pair<int, Place>> output_copies_;
  std::set<int> in_place_;  // buffers that took the place of a residual
};

}  // namespace onnxprune::ep
