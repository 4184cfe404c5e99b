// The tuner: whatever it chooses computes the same sums, and is remembered.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "harness.h"
#include "kernels.h"

using namespace onnxprune::kernels;

namespace {

struct Problem {
  ConvGeometry g;
  std::int32_t height, width;
  double density;
};

std::vector<Problem> problems() {
  std::vector<Problem> list;
  auto conv = [](std::int32_t in, std::int32_t out, std::int32_t kernel, std::int32_t stride) {
    ConvGeometry g;
    g.in_channels = in;
    g.out_channels = out;
    g.kernel_h = g.kernel_w = kernel;
    g.stride_h = g.stride_w = stride;
    g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = kernel / 2;
    return g;
  };
  list.push_back({conv(24, 40, 1, 1), 9, 11, 0.2});
  list.push_back({conv(16, 37, 3, 1), 14, 14, 0.1});
  list.push_back({conv(8, 20, 3, 2), 15, 13, 0.5});
  list.push_back({conv(40, 16, 1, 1), 7, 7, 0.02});
  return list;
}

// Runs a plan on a random image and returns the output as NCHW.
std::vector<float> run(const Plan& plan, const ConvGeometry& g, const std::vector<float>& image) {
  const PlaneLayout &in = plan.in_layout(), &out = plan.out_layout();
  std::vector<float> x(static_cast<std::size_t>(in.buffer_floats(g.in_channels)));
  std::vector<float> y(static_cast<std::size_t>(out.buffer_floats(g.out_channels)));
  import_nchw(image.data(), in, x.data(), 0, g.in_channels);
  std::vector<float> scratch(plan.scratch_bytes() / 4 + 16);
  RunArgs args;
  args.in = x.data();
  args.out = y.data();
  plan.run(args, 0, plan.work_items(1), scratch.data());
  std::vector<float> image_out(static_cast<std::size_t>(g.out_channels) * out.height * out.width);
  export_nchw(out, y.data(), image_out.data(), 0, g.out_channels);
  return image_out;
}

}  // namespace

TEST(tune_keeps_results) {
  testing::Random random(11);
  Tuner tuner(10.0);
  for (const Problem& p : problems()) {
    std::vector<float> w(static_cast<std::size_t>(p.g.columns()) * p.g.out_channels, 0.0f);
    for (float& v : w) v = random.uniform() < p.density ? random.symmetric() : 0.0f;
    std::vector<float> image(static_cast<std::size_t>(p.g.in_channels) * p.height * p.width);
    for (float& v : image) v = random.symmetric();
    WeightsPtr weights;
    CHECK(pack_dense(p.g, DenseView{w.data(), p.g.columns(), 1}, PackOptions{}, &weights).ok());
    const PlaneLayout in = make_layout(p.height, p.width, conv_need(p.g, p.height, p.width));
    PadNeed same;
    same.pitch = in.pitch;
    const PlaneLayout out =
        make_layout(p.g.out_height(p.height), p.g.out_width(p.width), same);
    PlanOptions options;
    PlanPtr plain, tuned, again, remembered;
    CHECK(make_plan(*weights, in, out, options, &plain).ok());
    CHECK(tuner.tune(*weights, in, out, options, &tuned).ok());
    CHECK(tuned != nullptr);
    CHECK(tuner.tune(*weights, in, out, options, &again).ok());
    CHECK(again == nullptr);  // known by now
    CHECK(make_remembered_plan(*weights, in, out, options, &remembered).ok());
    CHECK(std::string(remembered->info().kernel) == tuned->info().kernel);
    const std::vector<float> expected = run(*plain, p.g, image);
    for (const PlanPtr* plan : {&tuned, &remembered}) {
      const std::vector<float> found = run(**plan, p.g, image);
      float worst = 0.0f;
      for (std::size_t i = 0; i < found.size(); ++i)
        worst = std::max(worst, std::abs(found[i] - expected[i]));
      CHECK(worst < 1e-4f);
    }
  }
  tuner.release();
}

TEST(tune_without_time_leaves_it_to_the_model) {
  const ConvGeometry g = matmul_geometry(31, 17);
  std::vector<float> w(31 * 17, 0.0f);
  for (std::size_t i = 0; i < w.size(); i += 5) w[i] = 1.0f;
  WeightsPtr weights;
  CHECK(pack_dense(g, DenseView{w.data(), 31, 1}, PackOptions{}, &weights).ok());
  const PlaneLayout layout = make_layout(1, 40);
  Tuner tuner(0.0);
  PlanPtr plan, other;
  CHECK(tuner.tune(*weights, layout, layout, PlanOptions{}, &plan).ok());
  CHECK(plan == nullptr);
  CHECK(make_remembered_plan(*weights, layout, layout, PlanOptions{}, &plan).ok());
  CHECK(make_plan(*weights, layout, layout, PlanOptions{}, &other).ok());
  CHECK(std::string(plan->info().kernel) == other->info().kernel);
}
