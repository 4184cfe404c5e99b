#include "ep/places.h"

#include <algorithm>

#include "ep/arena.h"

namespace onnxprune::ep {

Places::Places(const Program& program, const LayoutPlan& plan) : program_(program), plan_(plan) {
  place_concat_operands();
  bind_borders();
}

int Places::buffer_of(int v, Form form) {
  auto [where, fresh] = buffers_by_form_.emplace(std::make_pair(v, form), static_cast<int>(buffers_.size()));
  if (fresh) {
    Buffer buffer;
    const View& x = value(v).view;
    buffer.floats = form.dense() ? x.images * x.channels * x.pixels() + 64
                                 : layout(v, form).buffer_floats(channels_of(v), static_cast<int32_t>(x.images));
    buffers_.push_back(buffer);
  }
  return where->second;
}

std::shared_ptr<Place> Places::use(int v, Form form, int step) {
  int b = buffer_of(v, form);
  for (int i = b; i >= 0; i = buffers_[at(i)].parent) {
    buffers_[at(i)].first = std::min(buffers_[at(i)].first, step);
    buffers_[at(i)].last = std::max(buffers_[at(i)].last, step);
  }
  auto place = std::make_shared<Place>();
  pending_.push_back({b, place});
  return place;
}

// Operands of a concatenation are written straight into their slice of the result.
void Places::place_concat_operands() {
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    const Op& op = program_.ops[i];
    if (op.kind != OpKind::concat) continue;
    const Form form = plan_.ops[i].out;
    const int whole = buffer_of(op.out, form);
    int64_t channel = 0;
    for (int v : op.in) {
      const int part = buffer_of(v, form);
      Buffer& b = buffers_[at(part)];
      // An input's dense form is onnxruntime's own buffer; a value can lie in one place only.
      const bool movable = b.parent < 0 && part != whole && !(form.dense() && is_input(v)) &&
                           value(v).view.images == 1 && !contains(part, whole);
      if (movable) {
        b.parent = whole;
        b.parent_offset = channel * layout(op.out, form).plane_stride;
      }
      channel += channels_of(v);
    }
  }
}

bool Places::contains(int outer, int inner) const {
  for (int i = inner; i >= 0; i = buffers_[at(i)].parent)
    if (i == outer) return true;
  return false;
}
bool Places::is_input(int v) const {
  return std::find(program_.inputs.begin(), program_.inputs.end(), v) != program_.inputs.end();
}
bool Places::is_output(int v) const {
  return std::find(program_.outputs.begin(), program_.outputs.end(), v) != program_.outputs.end();
}
int Places::root(int buffer, int64_t* offset) const {
  *offset = 0;
  for (; buffers_[at(buffer)].parent >= 0; buffer = buffers_[at(buffer)].parent)
    *offset += buffers_[at(buffer)].parent_offset;
  return buffer;
}

// Inputs and outputs live in onnxruntime's buffers. A dense buffer that already lies elsewhere (in a
// concatenation, or in an input) is copied out at the end instead.
void Places::bind_borders() {
  for (size_t k = 0; k < program_.inputs.size(); ++k) {
    Buffer& b = buffers_[at(buffer_of(program_.inputs[k], kDense))];
    b.bound = true;
    b.place = {Place::input, static_cast<int>(k), 0};
  }
  for (size_t k = 0; k < program_.outputs.size(); ++k) {
    const int v = program_.outputs[k];
    Buffer& b = buffers_[at(buffer_of(v, kDense))];
    const Place place{Place::output, static_cast<int>(k), 0};
    if (b.bound || b.parent >= 0) {
      output_copies_.emplace_back(v, place);
    } else {
      b.bound = true;
      b.place = place;
    }
  }
}

bool Places::alias(int v, Form source, Form target) {
  const int a = buffer_of(v, source), b = buffer_of(v, target);
  Buffer &x = buffers_[at(a)], &y = buffers_[at(b)];
  if (y.parent < 0 && !y.bound && !contains(b, a)) {
    y.parent = a;
    y.parent_offset = 0;
    return true;
  }
  if (x.parent < 0 && !x.bound && !contains(a, b)) {
    x.parent = b;
    x.parent_offset = 0;
    return true;
  }
  return false;
}

bool Places::put(int v, int of, Form form, int64_t offset) {
  const int source = buffer_of(of, form), target = buffer_of(v, form);
  Buffer& b = buffers_[at(target)];
  if (b.parent >= 0 || b.bound || contains(target, source)) return false;
  b.parent = source;
  b.parent_offset = offset;
  return true;
}

bool Places::lies_in(int part, int whole, Form form, int64_t offset) {
  const int inner = buffer_of(part, form), outer = buffer_of(whole, form);
  return buffers_[at(inner)].parent == outer && buffers_[at(inner)].parent_offset == offset;
}

void Places::reuse_residual(const Op& op, Form form) {
  const int v = op.residual, old = buffer_of(v, form), fresh = buffer_of(op.out, form);
  const Buffer &from = buffers_[at(old)], &to = buffers_[at(fresh)];
  const auto read_by = [&](const Op& later) {
    return later.residual == v || std::find(later.in.begin(), later.in.end(), v) != later.in.end();
  };
  const auto next = program_.ops.begin() + (&op - program_.ops.data()) + 1;
  if (v == op.in[0] || is_input(v) || is_output(v) || std::any_of(next, program_.ops.end(), read_by)) return;
  // Places that are part of others, or have parts, hold more than this value.
  const auto part_of_old = [&](const Buffer& b) { return b.parent == old; };
  if (from.bound || (from.parent >= 0 && in_place_.count(old) == 0) || to.bound || to.parent >= 0 ||
      std::any_of(buffers_.begin(), buffers_.end(), part_of_old))
    return;
  buffers_[at(fresh)].parent = old;
  in_place_.insert(fresh);
}

int64_t Places::allocate() {
  // A buffer lives from its first writer to its last reader; parts extend the life of the whole.
  for (size_t i = 0; i < buffers_.size(); ++i) {
    for (int p = buffers_[i].parent; p >= 0; p = buffers_[at(p)].parent) {
      buffers_[at(p)].first = std::min(buffers_[at(p)].first, buffers_[i].first);
      buffers_[at(p)].last = std::max(buffers_[at(p)].last, buffers_[i].last);
    }
  }
  std::vector<ArenaRequest> requests;
  std::vector<int> owner;
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const Buffer& b = buffers_[i];
    if (b.parent >= 0 || b.bound || b.last < 0) continue;
    requests.push_back({b.floats, b.first, b.last});
    owner.push_back(static_cast<int>(i));
  }
  int64_t floats = 0;
  const std::vector<int64_t> offsets = ep::place(requests, &floats);
  for (size_t i = 0; i < owner.size(); ++i) buffers_[at(owner[i])].place = {Place::arena, 0, offsets[i]};
  for (const Pending& pending : pending_) {
    int64_t offset = 0;
    *pending.place = buffers_[at(root(pending.buffer, &offset))].place;
    pending.place->offset += offset;
  }
  return floats;
}

}  // namespace onnxprune::ep
