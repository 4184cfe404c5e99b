#include "ep/instance_builder.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "kernels/shares.h"

namespace onnxprune::ep {

void InstanceBuilder::build() {
  plan_kernels();
  for (int v : program_.inputs) convert_from(v, kDense);
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    units_ = program_.ops[i].units;
    emit(program_.ops[i], plan_.ops[i]);
    convert_from(program_.ops[i].out, value(program_.ops[i].out).primary);
    for (int v : program_.ops[i].more) convert_from(v, value(v).primary);
  }
  units_.clear();
  for (const auto& copy : places_.output_copies()) emit_copy(copy.first, copy.second);
  lay_out();
}

void InstanceBuilder::emit_copy(int v, const Place& place) {
  auto from = use(v, kDense);
  const View& x = value(v).view;
  const int64_t floats = x.images * x.channels * x.pixels();
  add("copy", "copy", 1, moving(floats), [=](const Frame& f, int64_t, int64_t, void*) {
    std::memcpy(f.at(place), f.at(*from), static_cast<size_t>(floats) * sizeof(float));
  });
}

// What makes the value, for profiles.
std::string InstanceBuilder::name_of(int v) const {
  for (const Op& op : program_.ops)
    if (op.out == v) return op.label;
  return "an input";
}

// All other forms of `v` from the one that has just been written.
void InstanceBuilder::convert_from(int v, Form source) {
  for (const auto& entry : value(v).forms) {
    if (entry.first == source) continue;
    emit_conversion(v, source, entry.first);
  }
}

void InstanceBuilder::emit_conversion(int v, Form source, Form target) {
  const View x = value(v).view;
  const PlaneLayout from = layout(v, source), to = layout(v, target);
  // The same bytes under two names: nothing to move.
  if (same_bytes(source, from, target, to) && places_.alias(v, source, target)) return;
  auto in = use(v, source), out = use(v, target);
  const int64_t image = x.channels * x.pixels();
  const double cost = moving(2 * x.images * image);
  const int64_t images = x.images, channels = x.channels;
  const bool tokens = program_.domain == Domain::tokens;
  const std::string label = "layout of " + name_of(v);
  auto step = [&](const char* kernel, auto one) {
    // Leaving the program is a cost of the border, not of the operation before it.
    const std::vector<int> units = target.dense() && places_.is_output(v) ? std::vector<int>{} : units_;
    Step& s = add(label, kernel, images * channels, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
      // Items run over images x channels; cut the range at image borders.
      while (first < last) {
        const int64_t n = first / channels, c0 = first % channels;
        const int64_t c1 = std::min(channels, c0 + (last - first));
        one(f.at(*in), f.at(*out), n, static_cast<int32_t>(c0), static_cast<int32_t>(c1));
        first += c1 - c0;
      }
    });
    s.units = units;
    if (tokens) s.grain = 16;
  };
  if (source.dense() && tokens) {
    step("import_tokens", [=](const float* a, float* b, int64_t, int32_t c0, int32_t c1) {
      kernels::import_tokens(a, channels, to, b, c0, c1);
    });
  } else if (target.dense() && tokens) {
    step("export_tokens", [=](const float* a, float* b, int64_t, int32_t c0, int32_t c1) {
      kernels::export_tokens(from, a, b, channels, c0, c1);
    });
  } else if (source.dense()) {
    const int64_t stride = to.image_floats(static_cast<int32_t>(channels));
    step("import_nchw", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
      kernels::import_nchw(a + n * image, to, b + n * stride, c0, c1);
    });
  } else if (target.dense()) {
    const int64_t stride = from.image_floats(static_cast<int32_t>(channels));
    step("export_nchw", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
      kernels::export_nchw(from, a + n * stride, b + n * image, c0, c1);
    });
  } else {
    const int64_t stride = from.image_floats(static_cast<int32_t>(channels));
    const int64_t target_stride = to.image_floats(static_cast<int32_t>(channels));
    step("convert_planes", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
      kernels::convert_planes(from, a + n * stride, to, b + n * target_stride, c0, c1);
    });
  }
}

bool InstanceBuilder::same_bytes(Form source, const PlaneLayout& from, Form target, const PlaneLayout& to) const {
  if (program_.domain == Domain::tokens && source.dense() != target.dense()) return false;
  return from.plain() && to.plain() && from.pitch == to.pitch && from.plane_stride == to.plane_stride &&
         from.lead == to.lead;
}

void InstanceBuilder::emit(const Op& op, const OpPlan& o) {
  if (!op.has_weight())
    for (const std::string& node : op.nodes) instance_->kernels_.push_back({node, "planes"});
  switch (op.kind) {
    case OpKind::conv:
      return emit_conv(op, o);
    case OpKind::pool:
      return emit_pool(op, o);
    case OpKind::global_pool:
      return emit_global_pool(op);
    case OpKind::quantised_sum:
      return emit_quantised_sum(op, o.out);
    case OpKind::decode:
    case OpKind::encode:
      return emit_crossing(op);
    case OpKind::reshape:
      return emit_reshape(op, o.out);
    case OpKind::concat:
      return emit_concat(op, o.out);
    case OpKind::pointwise:
    case OpKind::affine:
    case OpKind::binary:
      return emit_pointwise(op, o.out);
    case OpKind::norm:
      return emit_norm(op, o.out);
    case OpKind::response_norm:
      return emit_response_norm(op, o.out);
    case OpKind::group_norm:
      return emit_group_norm(op, o.out);
    case OpKind::attention:
      return emit_attention(op, o.out);
    case OpKind::sums:
      return emit_sums(op, o.out);
    case OpKind::lookup:
      return emit_lookup(op, o.out);
    case OpKind::spread:
      return emit_spread(op);
    case OpKind::recurrent:
      return emit_recurrent(op);
    case OpKind::resize:
      return emit_resize(op);
    case OpKind::pick:
      return emit_pick(op, o.out);
    case OpKind::interleave:
      return emit_interleave(op);
  }
}

void InstanceBuilder::lay_out() {
  instance_->arena_floats_ = places_.allocate();
  size_t scratch = 0;
  for (const Step& step : instance_->steps_) scratch = std::max(scratch, (step.scratch + 63) / 64 * 64);
  instance_->threads_ = options_.threads;
  instance_->scratch_chunk_ = scratch;
  instance_->scratch_total_ = scratch * at(options_.threads);
}

Instance::Instance(const Program& program, const std::vector<Shape>& shapes, const InstanceOptions& options) {
  InstanceBuilder(program, shapes, options, this).build();
}

double Instance::cycles() const {
  double total = 0;
  for (const Step& step : steps_) total += step.cycles;
  return total;
}

double Instance::now(Clock clock) {
  timespec t{};
  clock_gettime(clock == Clock::wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

double Instance::looking(Clock clock) {
  double least = 1;
  double before = now(clock);
  for (int i = 0; i < 32; ++i) {
    const double after = now(clock);
    least = std::min(least, after - before);
    before = after;
  }
  return std::max(0.0, least);
}

void Instance::run(const float* const* inputs, float* const* outputs, void* workspace, Parallel* parallel,
                   double* microseconds, Clock clock) const {
  // Below this many cycles a hand-over to another thread costs more than it saves.
  constexpr double kWorthAThread = 20000;
  // ... and so many are worth taking from what threads share.
  constexpr double kPiece = 5000;
  constexpr int64_t kMostPieces = 1 << 30;
  Frame frame;
  frame.inputs = inputs;
  frame.outputs = outputs;
  frame.arena = static_cast<float*>(workspace);
  char* scratch = static_cast<char*>(workspace) + static_cast<size_t>(arena_floats_) * sizeof(float);
  const int threads = std::min(parallel->threads(), threads_);
  kernels::Shares shares(threads);
  double before = microseconds ? now(clock) : 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const double cycles_an_item = std::max(1.0, step.cycles / static_cast<double>(std::max<int64_t>(1, step.items)));
    const int64_t worth = static_cast<int64_t>(kPiece / cycles_an_item) + 1;
    const int64_t grain = (std::max(worth, step.items / kMostPieces) + step.grain - 1) / step.grain * step.grain;
    const int64_t pieces = (step.items + grain - 1) / grain;
    const int chunks =
        static_cast<int>(std::min<int64_t>({threads, pieces, static_cast<int64_t>(step.cycles / kWorthAThread) + 1}));
    if (step.together && threads > 1) {
      step.together(frame, parallel, threads, scratch, scratch_chunk_);
    } else if (chunks <= 1) {
      step.body(frame, 0, step.items, scratch);
    } else {
      shares.deal(pieces, chunks);
      parallel->run(chunks, [&](int chunk) {
        int64_t first = 0, last = 0;
        while (shares.take(chunk, &first, &last))
          step.body(frame, first * grain, std::min(step.items, last * grain),
                    scratch + scratch_chunk_ * static_cast<size_t>(chunk));
      });
    }
    if (microseconds) {
      const double after = now(clock);
      microseconds[i] += after - before;
      before = after;
    }
  }
}

}  // namespace onnxprune::ep
