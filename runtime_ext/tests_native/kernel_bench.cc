// Per-layer speed of the kernels on the layers of ResNet-50: GFLOP/s of the non-zero weights and
// share of the multiply-add peak of this core, measured in the same process. Batch 1, one thread,
// hot.
//
//   kernel_bench [--vector] [--kernel NAME] [--isa ISA] [--pattern u80|u90|u95|b80|b90|nm24|dense
//   ...]
//   [--quick] [--phases]
//                [--chain] [--layer TEXT | --custom
//                IN,OUT,KERNEL,WIDTH[,HEIGHT[,COUNT[,STRIDE[,GROUPS]]]] ...] [--budget BYTES]
//                [--vectors N] [--pack 0|1] [--no-code]
//                [--pixels N] [--rows N] [--registers] [--no-shift] [--no-fetch] [--no-alike]
//                [--fetch-second 0|1] (generated kernels)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "harness.h"
#include "kernels.h"
#include "peak.h"
#include "plan_impl.h"

using namespace onnxprune::kernels;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Layer {
  int in, out, kernel, size, count;
  int height = 0;  // rows, when not square
  int stride = 1, groups = 1;
  int rows() const { return height > 0 ? height : size; }
  double out_pixels() const {
    return static_cast<double>((rows() + stride - 1) / stride) * ((size + stride - 1) / stride);
  }
};
// light ResNet-50 (stride in the 1x1 of each stage's first block taken as already split).
const Layer kLayers[] = {
    {64, 256, 1, 56, 4},   {64, 64, 1, 56, 1},    {64, 64, 3, 56, 3},    {256, 64, 1, 56, 2},
    {256, 512, 1, 28, 1},  {256, 128, 1, 28, 1},  {128, 128, 3, 28, 4},  {128, 512, 1, 28, 4},
    {512, 128, 1, 28, 3},  {512, 1024, 1, 14, 1}, {512, 256, 1, 14, 1},  {256, 256, 3, 14, 6},
    {256, 1024, 1, 14, 6}, {1024, 256, 1, 14, 5}, {1024, 2048, 1, 7, 1}, {1024, 512, 1, 7, 1},
    {512, 512, 3, 7, 3},   {512, 2048, 1, 7, 3},  {2048, 512, 1, 7, 2}};

struct Options {
  const char* kernel = nullptr;
  const char* layer = nullptr;
  std::vector<Layer> layers{std::begin(kLayers), std::end(kLayers)};
  Isa isa = active_isa();
  std::vector<std::string> patterns;
  Tuning tuning;
  double seconds = 0.05;
  bool generate = true, chain = false, vector = false, phases = false;
};

// Random weights of a pattern: uNN unstructured, bNN in 4x1 blocks, cNN in 8x1 blocks (NN % zeros),
// nmNM n of every m, dense.
std::vector<float> make_weights(const Layer& layer, const std::string& pattern) {
  const int rows = layer.out, columns = layer.in / layer.groups * layer.kernel * layer.kernel;
  testing::Random random(static_cast<std::uint64_t>(rows) * 7919 + columns);
  std::vector<float> w(static_cast<std::size_t>(rows) * columns, 0.0f);
  const int height = pattern[0] == 'b' ? 4 : pattern[0] == 'c' ? 8 : 1;
  const bool nm = pattern.rfind("nm", 0) == 0, dense = pattern == "dense";
  const double density = nm || dense ? 1.0 : 1.0 - std::atoi(pattern.c_str() + 1) / 100.0;
  const int n = nm ? pattern[2] - '0' : 0, m = nm ? pattern[3] - '0' : 1;
  for (int r = 0; r < rows; r += height) {
    for (int c = 0; c < columns; ++c) {
      const bool keep = nm ? (c % m + r) % m < n : random.uniform() < density;
      for (int i = 0; i < height; ++i) {
        w[static_cast<std::size_t>(r + i) * columns + c] =
            keep ? 0.1f * random.symmetric() + 0.001f : 0.0f;
      }
    }
  }
  return w;
}

struct Prepared {
  PlanPtr plan;
  std::vector<float> in, out;
  RunArgs args;
  std::vector<float> scratch;
};

float* align(std::vector<float>& v) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(v.data()) + 63) &
                                  ~std::uintptr_t{63});
}

bool prepare(const Layer& layer, const std::string& pattern, const Options& o, Prepared* p) {
  ConvGeometry g;
  g.in_channels = layer.in;
  g.out_channels = layer.out;
  g.kernel_h = g.kernel_w = layer.kernel;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = layer.kernel / 2;
  g.stride_h = g.stride_w = layer.stride;
  g.groups = layer.groups;
  const std::vector<float> w = make_weights(layer, pattern);
  WeightsPtr weights;
  PackOptions pack;
  const std::vector<float> bias(static_cast<std::size_t>(layer.out), 0.01f);
  pack.bias = bias.data();
  Status status = pack_dense(g, DenseView{w.data(), g.columns(), 1}, pack, &weights);
  PlaneLayout layout =
      make_layout(layer.rows(), layer.size, conv_need(g, layer.rows(), layer.size));
  PlanOptions options;
  options.isa = o.isa;
  options.kernel = o.kernel;
  options.generate_code = o.generate;
  options.epilogue.activation = Activation::relu;
  PadNeed same;  // the input's own pitch, so that the output is stored in place
  same.pitch = layout.pitch;
  const int oh = g.out_height(layer.rows()), ow = g.out_width(layer.size);
  PlaneLayout out = layer.stride == 1 ? layout : make_layout(oh, ow, same);
  if (o.phases) {  // as a following 3x3 window with stride 2 wants it
    ConvGeometry next;
    next.in_channels = next.out_channels = layer.out;
    next.kernel_h = next.kernel_w = 3;
    next.pad_top = next.pad_left = next.pad_bottom = next.pad_right = 1;
    next.stride_h = next.stride_w = 2;
    out = make_layout(oh, ow, conv_need(next, oh, ow));
  }
  if (o.vector) layout = out = vector_layout();
  if (status.ok()) status = make_tuned_plan(*weights, layout, out, options, o.tuning, &p->plan);
  if (!status.ok()) {
    std::printf("%s\n", status.message);
    return false;
  }
  p->in.resize(static_cast<std::size_t>(layout.buffer_floats(layer.in)) + 16);
  p->out.resize(static_cast<std::size_t>(out.buffer_floats(layer.out)) + 16);
  p->scratch.resize(p->plan->scratch_bytes() / 4 + 16);
  p->args.in = align(p->in);
  p->args.out = align(p->out);
  testing::Random random(3);
  std::vector<float> image(static_cast<std::size_t>(layer.in) * layer.rows() * layer.size);
  for (float& v : image) v = random.symmetric();
  import_nchw(image.data(), layout, align(p->in), 0, layer.in);
  return true;
}

// The convolutions of the whole network one after the other on shared activation buffers: weights
// and code come from wherever they are by then. Values do not flow through; times only.
void run_chain(const Options& o) {
  for (const std::string& pattern : o.patterns) {
    std::vector<Prepared> chain;
    std::vector<const Layer*> of;
    std::int64_t most = 0;
    for (const Layer& layer : o.layers) {
      for (int i = 0; i < layer.count; ++i) {
        chain.emplace_back();
        if (!prepare(layer, pattern, o, &chain.back())) return;
        of.push_back(&layer);
        const PlanPtr& plan = chain.back().plan;
        most = std::max<std::int64_t>({most, plan->in_layout().buffer_floats(layer.in),
                                       plan->out_layout().buffer_floats(layer.out)});
        chain.back().in = chain.back().out = {};
      }
    }
    std::vector<float> arena(static_cast<std::size_t>(3 * (most + 64)));
    for (float& v : arena) v = 0.5f;
    float* base = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(arena.data()) + 63) &
                                           ~std::uintptr_t{63});
    std::int64_t bytes = 0, code = 0;
    double built = 0.0;
    for (std::size_t i = 0; i < chain.size(); ++i) {
      chain[i].args.in = base + static_cast<std::int64_t>(i % 3) * (most / 16 * 16 + 32);
      chain[i].args.out = base + static_cast<std::int64_t>((i + 1) % 3) * (most / 16 * 16 + 32);
      bytes += chain[i].plan->info().bytes;
      code += chain[i].plan->info().code_bytes;
      built += chain[i].plan->info().build_seconds;
    }
    double best = 1e30;
    std::vector<double> layer_time(chain.size(), 1e30);
    for (int round = 0; round < 60; ++round) {
      const double start = now();
      double before = start;
      for (std::size_t i = 0; i < chain.size(); ++i) {
        chain[i].plan->run(chain[i].args, 0, chain[i].plan->work_items(1), align(chain[i].scratch));
        const double after = now();
        layer_time[i] = std::min(layer_time[i], after - before);
        before = after;
      }
      best = std::min(best, before - start);
    }
    std::printf(
        "%-6s chain %7.3f ms; %.1f MB of weights and code (%.1f MB code), planned in %.0f ms\n",
        pattern.c_str(), best * 1e3, static_cast<double>(bytes) / 1e6,
        static_cast<double>(code) / 1e6, built * 1e3);
    for (const Layer& layer : o.layers) {
      double t = 0.0;
      const PlanInfo* info = nullptr;
      for (std::size_t i = 0; i < chain.size(); ++i) {
        if (of[i] != &layer) continue;
        t += layer_time[i];
        info = &chain[i].plan->info();
      }
      std::printf("    %dx%d %4d-%4d@%2d x%d  %7.3f ms  %6.1f GF/s  %s\n", layer.kernel,
                  layer.kernel, layer.in, layer.out, layer.size, layer.count, t * 1e3,
                  2.0 * static_cast<double>(info->nnz) * layer.out_pixels() * layer.count / t / 1e9,
                  info->kernel);
    }
  }
}

double best_time(Prepared& p, double seconds) {
  const std::int64_t items = p.plan->work_items(1);
  double best = 1e30;
  const double start = now();
  int runs = 0;
  do {
    const double t = now();
    p.plan->run(p.args, 0, items, align(p.scratch));
    best = std::min(best, now() - t);
  } while (++runs < 5 || now() - start < seconds);
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const char* next = i + 1 < argc ? argv[i + 1] : "";
    if (a == "--kernel")
      o.kernel = next, ++i;
    else if (a == "--layer")
      o.layer = next, ++i;
    else if (a == "--custom") {
      Layer l{0, 0, 1, 1, 1};
      if (std::sscanf(next, "%d,%d,%d,%d,%d,%d,%d,%d", &l.in, &l.out, &l.kernel, &l.size, &l.height,
                      &l.count, &l.stride, &l.groups) < 4)
        return 2;
      if (o.layers.size() == std::size(kLayers)) o.layers.clear();
      o.layers.push_back(l);
      ++i;
    } else if (a == "--isa")
      isa_from_name(next, &o.isa), ++i;
    else if (a == "--pattern")
      o.patterns.push_back(next), ++i;
    else if (a == "--budget")
      o.tuning.input_budget = std::atoll(next), ++i;
    else if (a == "--vectors")
      o.tuning.max_vectors = std::atoi(next), ++i;
    else if (a == "--pixels")
      o.tuning.pixels = std::atoi(next), ++i;
    else if (a == "--rows")
      o.tuning.rows = std::atoi(next), ++i;
    else if (a == "--no-fetch")
      o.tuning.fetch = false;
    else if (a == "--fetch-second")
      o.tuning.fetch_second = std::atoi(next), ++i;
    else if (a == "--pack")
      o.tuning.pack = std::atoi(next), ++i;
    else if (a == "--no-shift")
      o.tuning.shift = false;
    else if (a == "--no-alike")
      o.tuning.alike = false;
    else if (a == "--registers")
      o.tuning.embedded = false;
    else if (a == "--vector")
      o.vector = true;
    else if (a == "--phases")
      o.phases = true;
    else if (a == "--chain")
      o.chain = true;
    else if (a == "--quick")
      o.seconds = 0.01;
    else if (a == "--no-code")
      o.generate = false;
    else
      return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
  }
  if (o.patterns.empty()) o.patterns = {"u80", "u90", "u95", "b80", "b90", "nm24", "dense"};
  const double peak = peak_gflops(o.isa);
  std::printf("%s, peak %.1f GFLOP/s (one core, measured)\n", isa_name(o.isa), peak);
  if (o.chain) {
    run_chain(o);
    return 0;
  }
  std::printf("%-22s", "layer");
  for (const std::string& pattern : o.patterns) std::printf(" | %-15s", pattern.c_str());
  std::printf("\n");
  std::vector<double> total(o.patterns.size(), 0.0), flops(o.patterns.size(), 0.0),
      built(o.patterns.size(), 0.0);
  std::vector<std::string> names(o.patterns.size());
  double dense_flops = 0.0;
  for (const Layer& layer : o.layers) {
    char name[64];
    std::snprintf(name, sizeof name, "%dx%d %4d-%4d@%2d x%d", layer.kernel, layer.kernel, layer.in,
                  layer.out, layer.size, layer.count);
    if (o.layer != nullptr && std::strstr(name, o.layer) == nullptr) continue;
    dense_flops += 2.0 * layer.in / layer.groups * layer.out * layer.kernel * layer.kernel *
                   layer.out_pixels() * layer.count;
    std::printf("%-22s", name);
    for (std::size_t i = 0; i < o.patterns.size(); ++i) {
      Prepared p;
      if (!prepare(layer, o.patterns[i], o, &p)) return 1;
      const double t = best_time(p, o.seconds);
      const double work = 2.0 * static_cast<double>(p.plan->info().nnz) * layer.out_pixels();
      std::printf(" | %6.1f GF %4.1f%% ", work / t / 1e9, 100.0 * work / t / 1e9 / peak);
      std::fflush(stdout);
      total[i] += t * layer.count;
      flops[i] += work * layer.count;
      built[i] += p.plan->info().build_seconds * layer.count;
      names[i] = p.plan->info().kernel;
    }
    std::printf("\n");
  }
  for (std::size_t i = 0; i < o.patterns.size(); ++i) {
    std::printf(
        "%-6s sum %7.3f ms  %6.1f GF/s (%4.1f%% of peak), dense-equivalent %7.1f GF/s, planned in "
        "%.0f ms  %s\n",
        o.patterns[i].c_str(), total[i] * 1e3, flops[i] / total[i] / 1e9,
        100.0 * flops[i] / total[i] / 1e9 / peak, dense_flops / total[i] / 1e9, built[i] * 1e3,
        names[i].c_str());
  }
  return 0;
}
