#include "ep/instance_builder.h"

#include <stdexcept>

#include "ep/recurrent.h"

namespace onnxprune::ep {

namespace {

// Tiles of a recurrent layer, which sessions share.
std::shared_ptr<const kernels::RecurrentWeights> recurrent_weights(const Op& op) {
  static Shared<const kernels::RecurrentWeights> held;
  // Directions and gates cut the same matrix into tiles in different ways.
  const kernels::RecurrentShape& s = op.recurrent->shape;
  const Digest key = op.digest.known() ? Hasher().put(op.digest).put(s.cell).put(s.directions).put(s.hidden).digest() : Digest{};
  if (auto known = held.find(key)) return known;
  const auto packed = op.weights ? op.weights : packed_weight(op, false);
  std::shared_ptr<const kernels::RecurrentWeights> made;
  const kernels::Status status = kernels::make_recurrent_weights(s, *packed, &made);
  if (!status.ok()) throw std::runtime_error("onnxprune: no kernel for '" + op.label + "': " + std::string(status.message));
  return held.keep(key, std::move(made));
}

}  // namespace

void InstanceBuilder::emit_recurrent(const Op& op) {
  // Below so many cycles between two meetings threads would mostly wait for each other.
  constexpr double kWorthMeeting = 16000;
  const std::shared_ptr<const RecurrentSpec> spec = op.recurrent;
  const Shape& x = shapes_[at(op.in[0])];
  const int64_t steps = x[0], batch = x[1];
  auto weights = recurrent_weights(op);
  auto layer = std::make_shared<const kernels::Recurrent>(spec->shape, weights, steps, batch, options_.isa);
  auto in = use(op.in[0], kDense);
  std::shared_ptr<Place> lengths, h, c, results[3];
  size_t next = 1;
  if (spec->operands & kLengths) lengths = use(op.in[next++], kDense);
  if (spec->operands & kInitialH) h = use(op.in[next++], kDense);
  if (spec->operands & kInitialC) c = use(op.in[next++], kDense);
  next = 0;
  for (int i = 0; i < 3; ++i) {
    if (!(spec->results & 1u << i)) continue;
    results[i] = use(next == 0 ? op.out : op.more[next - 1], kDense);
    ++next;
  }
  auto arguments = [=, y = results[0], y_h = results[1], y_c = results[2]](const Frame& f) {
    auto constant = [](const auto& list) { return list.empty() ? nullptr : list.data(); };
    kernels::RecurrentRun run;
    run.x = f.at(*in);
    run.bias = constant(spec->bias);
    run.h = h ? f.at(*h) : constant(spec->h);
    run.c = c ? f.at(*c) : constant(spec->c);
    run.lengths = lengths ? reinterpret_cast<const int32_t*>(f.at(*lengths)) : constant(spec->lengths);
    if (lengths) check_lengths(run.lengths, batch, steps);
    if (y) run.y = f.at(*y);
    if (y_h) run.y_h = f.at(*y_h);
    if (y_c) run.y_c = f.at(*y_c);
    return run;
  };
  static const char* const names[] = {"recurrent_tiles_f32_scalar", "recurrent_tiles_f32_avx2", "recurrent_tiles_f32_avx512"};
  const char* const name = names[static_cast<int>(options_.isa)];
  const size_t state = (layer->state_bytes() + 63) / 64 * 64;
  const int directions = spec->shape.directions;
  Step& step = add(op.label, name, directions, layer->cycles(), [=](const Frame& f, int64_t first, int64_t last, void* scratch) {
    const kernels::RecurrentRun run = arguments(f);
    for (int64_t d = first; d < last; ++d) layer->run(run, d, scratch, static_cast<char*>(scratch) + state);
  });
  step.scratch = state + layer->scratch_bytes();
  if (options_.threads > directions && layer->stage_cycles() > kWorthMeeting)
    step.together = [=](const Frame& f, Parallel* parallel, int threads, char* scratch, size_t chunk) {
      const kernels::RecurrentRun run = arguments(f);
      const auto stages = layer->stages(threads);
      layer->start(run, scratch);
      parallel->run(threads, [&](int thread) {
        layer->join(run, stages.get(), thread, scratch, scratch + chunk * static_cast<size_t>(thread) + state);
      });
    };
  instance_->packed_bytes_ += weights->bytes();
  for (const std::string& node : op.nodes) {
    NodeKernel kernel{node, name};
    kernel.bytes = weights->bytes();
    instance_->kernels_.push_back(std::move(kernel));
  }
  instance_->owned_.push_back(std::move(weights));
}

}  // namespace onnxprune::ep
