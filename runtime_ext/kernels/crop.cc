#include "weights_impl.h"

namespace onnxprune::kernels {

Status crop_taps(const Weights& weights, const ConvGeometry& geometry, std::int32_t first_h,
                 std::int32_t first_w, WeightsPtr* cropped) {
  return guarded([&]() -> Status {
    const auto& w = static_cast<const WeightsImpl&>(weights);
    const ConvGeometry& whole = w.shape;
    if (first_h < 0 || first_w < 0 || first_h > whole.kernel_h - geometry.kernel_h ||
        first_w > whole.kernel_w - geometry.kernel_w || geometry.in_channels != whole.in_channels ||
        geometry.out_channels != whole.out_channels || geometry.groups != whole.groups) {
      return failure(Code::invalid_argument, "weights: no such part of the window");
    }
    PackOptions options;
    options.compact = false;
    options.bias = w.bias();
    std::unique_ptr<WeightsBuilder> builder;
    if (const Status status = make_builder(geometry, options, &builder); !status.ok()) return status;
    const std::int32_t all = whole.kernel_h * whole.kernel_w;
    std::vector<std::int32_t> columns;
    std::vector<float> values;
    for (std::int64_t row = 0; row < w.rows(); ++row) {
      columns.clear();
      values.clear();
      w.for_each_in_row(row, [&](std::uint32_t column, float value) {
        const auto c = static_cast<std::int32_t>(column);
        const std::int32_t channel = c / all, y = c % all / whole.kernel_w - first_h,
                           x = c % whole.kernel_w - first_w;
        if (y < 0 || y >= geometry.kernel_h || x < 0 || x >= geometry.kernel_w) return;
        columns.push_back((channel * geometry.kernel_h + y) * geometry.kernel_w + x);
        values.push_back(value);
      });
      const Status status =
          builder->add_row(columns.data(), values.data(), static_cast<std::int32_t>(columns.size()));
      if (!status.ok()) return status;
    }
    return builder->finish(cropped);
  });
}

}  // namespace onnxprune::kernels
