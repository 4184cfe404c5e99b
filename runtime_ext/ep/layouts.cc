#include "ep/layouts.h"

#include <algorithm>
#include <numeric>

namespace onnxprune::ep {
namespace {

using kernels::PadNeed;
using kernels::PlaneLayout;

class Sets {
 public:
  explicit Sets(size_t size) : parent_(size) { std::iota(parent_.begin(), parent_.end(), 0); }
  int find(int i) {
    while (parent_[at(i)] != i) i = parent_[at(i)] = parent_[at(parent_[at(i)])];
    return i;
  }
  void join(int a, int b) { parent_[at(find(a))] = find(b); }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  std::vector<int> parent_;
};

// A plain matrix product on every pixel.
bool is_matrix(const kernels::ConvGeometry& g) {
  return g.groups == 1 && g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top + g.pad_bottom == 0 &&
         g.pad_left + g.pad_right == 0;
}

class Planner {
 public:
  Planner(const Program& program, const std::vector<Shape>& shapes)
      : program_(program),
        count_(program.value_count),
        same_(static_cast<size_t>(program.value_count)) {
    plan_.values.resize(shapes.size());
    for (size_t i = 0; i < shapes.size(); ++i) plan_.values[i].view = view(program.domain, shapes[i]);
    plan_.ops.resize(program.ops.size());
  }

  LayoutPlan run() {
    demands();
    primaries();
    layouts();
    return std::move(plan_);
  }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  ValuePlan& value(int v) { return plan_.values[at(v)]; }
  bool is_vector(int v) { return value(v).view.pixels() == 1; }
  // False for an operand that is repeated.
  bool same_size(int a, int b) {
    return value(a).view.height == value(b).view.height && value(a).view.width == value(b).view.width;
  }
  // A mask is read as onnxruntime keeps it.
  Form attention_form(const Op& op, size_t operand) {
    const bool dense = operand > 2 || (operand == 1 && op.attention->k_axes.dense()) || (operand == 2 && op.attention->v_axes.dense());
    return dense ? kDense : planes_of(op.in[operand]);
  }
  // Tokens by themselves have one form only.
  Form planes_of(int v) { return is_vector(v) ? kDense : kPlain; }

  void demand(int v, Form form) {
    value(v).needed = true;
    value(v).forms[form];
  }
  // What a weighted sum needs of its input.
  PadNeed need_of(const Op& op) {
    const View& x = value(op.in[0]).view;
    return kernels::conv_need(op.geometry, static_cast<int32_t>(x.height), static_cast<int32_t>(x.width));
  }
  // `a` and `b` must lie in memory in the same way.
  void tie(int a, int b) { same_.join(a, b); }

  // Which forms each op reads and writes.
  void demands() {
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      const Op& op = program_.ops[i];
      OpPlan& o = plan_.ops[i];
      switch (op.kind) {
        case OpKind::conv:
          if (is_vector(op.in[0]) && is_matrix(op.geometry)) {
            o.in = o.out = kDense;
          } else {
            const kernels::PadNeed need = need_of(op);
            o.in = {need.stride_h, need.stride_w};
            o.out = kPlain;
          }
          break;
        case OpKind::pool:
        case OpKind::interleave:
          o.in = o.out = kPlain;
          break;
        case OpKind::resize:
          o.in = o.out = kPlain;
          demand(op.in[0], kPlain);  // of another operand only the size is read
          continue;
        case OpKind::global_pool:
          o.in = kPlain;
          o.out = kDense;
          break;
        case OpKind::reshape:
          o.in = o.out = op.target.empty() || is_vector(op.in[0]) ? kDense : kPlain;
          break;
        case OpKind::decode:
        case OpKind::encode:
          o.in = o.out = kDense;
          break;
        case OpKind::attention:
          o.in = kPlain;
          o.out = is_vector(op.out) ? kDense : kPlain;
          for (size_t k = 0; k < op.in.size(); ++k) demand(op.in[k], attention_form(op, k));
          continue;
        case OpKind::sums:
          o.in = kPlain;
          o.out = planes_of(op.out);
          for (int v : op.in) demand(v, planes_of(v));
          continue;
        case OpKind::lookup:
          o.in = kDense;
          o.out = planes_of(op.out);
          break;
        case OpKind::spread:
          o.in = o.out = kDense;
          for (size_t k = 0; k < op.in.size(); ++k)
            demand(op.in[k], op.spread->parts[k].in_planes() ? planes_of(op.in[k]) : kDense);
          continue;
        case OpKind::recurrent:
          o.in = o.out = kDense;
          for (int v : op.more) {
            value(v).primary = kDense;
            value(v).forms[kDense];
          }
          break;
        case OpKind::binary:
          o.in = o.out = planes_of(op.out);
          for (int v : op.in) demand(v, planes_of(v));
          continue;
        case OpKind::concat:
        case OpKind::pointwise:
        case OpKind::affine:
        case OpKind::quantised_sum:
        case OpKind::norm:
        case OpKind::response_norm:
        case OpKind::group_norm:
        case OpKind::pick:
          o.in = o.out = is_vector(op.in[0]) ? kDense : kPlain;
          break;
      }
      for (int v : op.in) demand(v, o.in);
      if (op.residual >= 0) demand(op.residual, o.out);
    }
    for (int v : program_.outputs) demand(v, kDense);
    for (int v : program_.inputs) value(v).needed = true;
  }

  // The one form each producer writes; the others are converted from it.
  void primaries() {
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      const Op& op = program_.ops[i];
      OpPlan& o = plan_.ops[i];
      ValuePlan& out = value(op.out);
      // Where all readers want the same phases, a weighted sum writes these at once.
      if (op.kind == OpKind::conv && o.out.plain() && op.residual < 0 && out.forms.size() == 1 &&
          !out.forms.begin()->first.dense())
        o.out = out.forms.begin()->first;
      out.primary = o.out;
      out.forms[o.out];
      if (!o.out.plain()) continue;
      if (op.residual >= 0) tie(op.out, op.residual);
      if (o.in.plain() && (op.kind == OpKind::concat || op.kind == OpKind::affine || op.kind == OpKind::pointwise ||
                           op.kind == OpKind::reshape || op.kind == OpKind::binary || op.kind == OpKind::pick ||
                           op.kind == OpKind::quantised_sum || op.kind == OpKind::norm ||
                           op.kind == OpKind::response_norm || op.kind == OpKind::group_norm))
        for (int v : op.in)
          if (same_size(op.out, v)) tie(op.out, v);
    }
    for (int v : program_.inputs) value(v).forms[kDense];
  }

  struct Node {
    int value;
    Form form;
    PadNeed need;
  };

  int node_of(int v, Form form) {
    int key = form.plain() ? same_.find(v) : v;
    auto [where, fresh] = index_.emplace(std::make_pair(key, form), static_cast<int>(nodes_.size()));
    if (fresh) {
      Node node{v, form, PadNeed{}};
      node.need.stride_h = form.stride_h;
      node.need.stride_w = form.stride_w;
      node.need.phase_mask = form.plain() ? 1 : 0;
      nodes_.push_back(node);
    }
    return where->second;
  }

  void layouts() {
    for (int v = 0; v < count_; ++v)
      for (const auto& entry : value(v).forms)
        if (!entry.first.dense()) node_of(v, entry.first);
    std::vector<std::pair<int, int>> equal_pitch;
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      const Op& op = program_.ops[i];
      const OpPlan& o = plan_.ops[i];
      if (op.kind != OpKind::conv || o.in.dense()) continue;
      int in = node_of(op.in[0], o.in), out = node_of(op.out, o.out);
      kernels::merge_need(&nodes_[at(in)].need, need_of(op));
      // One that walks planes row by row gains by it where rows are short.
      const bool rows = kernels::walks_planes(op.geometry) &&
                        (op.geometry.stride_h > 1 || value(op.out).view.width >= kernels::kLane);
      if (o.out.plain() && !rows) equal_pitch.emplace_back(in, out);
    }
    // A convolution runs over one flat pixel vector when its input and output have the same pitch.
    Sets pitch(nodes_.size());
    for (auto [a, b] : equal_pitch) pitch.join(a, b);
    std::vector<int32_t> widest(nodes_.size(), 0);
    std::vector<bool> bare(nodes_.size(), true);  // no padding anywhere, pixels in whole cache lines
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const Node& node = nodes_[i];
      const size_t root = at(pitch.find(static_cast<int>(i)));
      widest[root] = std::max(widest[root], make(node).pitch);
      const View& x = value(node.value).view;
      const PadNeed& n = node.need;
      const bool natural = node.form.plain() && n.top + n.left + n.bottom + n.right == 0 &&
                           n.min_pitch <= x.width && x.pixels() % kernels::kLane == 0 && x.pixels() % 1024 != 0;
      bare[root] = bare[root] && natural;
    }
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const size_t root = at(pitch.find(static_cast<int>(i)));
      nodes_[i].need.pitch = widest[root];
      if (bare[root] && touches_border()) natural_.push_back(static_cast<int>(i));
    }
    for (int v = 0; v < count_; ++v) {
      for (auto& entry : value(v).forms) {
        if (entry.first.dense()) {
          entry.second = dense_layout(value(v).view);
          continue;
        }
        const int node = node_of(v, entry.first);
        const bool natural = std::find(natural_.begin(), natural_.end(), node) != natural_.end();
        const View& x = value(v).view;
        if (!natural || !kernels::natural_layout(static_cast<int32_t>(x.height), static_cast<int32_t>(x.width), &entry.second).ok())
          entry.second = make(nodes_[at(node)]);
      }
    }
  }

  // Bare layouts save a copy at the border of the program but make plane strides regular, which costs
  // cache conflicts inside: worth it for a lone operation only.
  bool touches_border() const { return program_.domain != Domain::tokens && program_.ops.size() == 1; }

  PlaneLayout make(const Node& node) {
    const View& x = value(node.value).view;
    return kernels::make_layout(static_cast<int32_t>(x.height), static_cast<int32_t>(x.width), node.need);
  }

  static PlaneLayout dense_layout(const View& view) {
    if (view.pixels() == 1) return kernels::vector_layout();
    PlaneLayout layout;
    layout.height = layout.rows = static_cast<int32_t>(view.height);
    layout.width = layout.cols = layout.pitch = static_cast<int32_t>(view.width);
    layout.phase_stride = layout.plane_stride = view.pixels();
    return layout;
  }

  const Program& program_;
  int count_;
  Sets same_;
  std::map<std::pair<int, Form>, int> index_;
  std::vector<Node> nodes_;
  std::vector<int> natural_;
  LayoutPlan plan_;
};

}  // namespace

LayoutPlan plan_layouts(const Program& program, const std::vector<Shape>& shapes) {
  return Planner(program, shapes).run();
}

}  // namespace onnxprune::ep
