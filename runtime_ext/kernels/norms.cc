#include "norms.h"

#include <algorithm>
#include <cmath>

#include "ops/planes.h"

namespace onnxprune::kernels {
namespace {

// Floats of one plane at a time: those of all channels in a window stay in the first-level cache.
constexpr std::int64_t kBlock = 512;
// Floats that are summed in single precision, a multiple of all vectors.
constexpr std::int64_t kPart = 4096;

// sum over the pixels of a channel of part(offset, floats, mask), in double precision.
template <class Part>
double sum_of(const Planes& planes, std::int32_t channel, Part&& part) {
  double total = 0;
  planes.pixels(channel, [&](std::int32_t, std::int64_t at, std::int64_t count, const std::uint16_t* mask) {
    for (std::int64_t i = 0; i < count; i += kPart)
      total += part(at + i, std::min(kPart, count - i), mask == nullptr ? nullptr : mask + i / active().width);
  });
  return total;
}

}  // namespace

bool check_response_norm(const ResponseNorm& norm) {
  return norm.size >= 1 && norm.size <= (1 << 24) && norm.alpha >= 0.0f && norm.alpha <= 1e30f && norm.beta > 0.0f &&
         norm.beta <= 4.0f && norm.bias >= 1e-9f && norm.bias <= 1e30f;
}

void response_norm(const ResponseNorm& norm, const PlaneLayout& layout, std::int32_t channels,
                   const float* in, float* out, std::int32_t first, std::int32_t last) {
  const std::int64_t stride = layout.plane_stride;
  const std::int32_t before = (norm.size - 1) / 2, behind = norm.size / 2;
  // Zeros around the pixels stay zeros, so whole planes are as good as their pixels.
  for (std::int64_t i = 0; i < stride; i += kBlock) {
    const std::int64_t count = std::min(kBlock, stride - i);
    for (std::int32_t c = first; c < last; ++c) {
      const std::int32_t from = std::max(0, c - before);
      const std::int32_t to = static_cast<std::int32_t>(std::min<std::int64_t>(channels - 1, std::int64_t{c} + behind));
      active().response_norm(norm, in + from * stride + i, stride, to - from + 1, in + c * stride + i,
                             out + c * stride + i, count);
    }
  }
}

void group_norm(const PlaneLayout& layout, std::int32_t channels, const float* in, const float* scale,
                const float* shift, float epsilon, const Epilogue& epilogue, float* out,
                std::int32_t first, std::int32_t last) {
  const OpsTable& ops = active();
  const Planes planes(layout);
  const double count = static_cast<double>(channels) * layout.height * layout.width;
  for (std::int32_t group = first; group < last; ++group) {
    const std::int32_t begin = group * channels, end = begin + channels;
    double sum = 0, squares = 0;
    for (std::int32_t c = begin; c < end; ++c)
      sum += sum_of(planes, c, [&](std::int64_t at, std::int64_t floats, const std::uint16_t*) {
        return ops.sum(in + at, floats);  // what is masked is zero
      });
    const double mean = sum / count;
    for (std::int32_t c = begin; c < end; ++c)
      squares += sum_of(planes, c, [&](std::int64_t at, std::int64_t floats, const std::uint16_t* mask) {
        return ops.squared_deviations(in + at, static_cast<float>(mean), mask, floats);
      });
    const double inverse = 1.0 / std::sqrt(squares / count + static_cast<double>(epsilon));
    for (std::int32_t c = begin; c < end; ++c) {
      const double factor = inverse * (scale == nullptr ? 1.0 : static_cast<double>(scale[c]));
      const double term = (shift == nullptr ? 0.0 : static_cast<double>(shift[c])) - mean * factor;
      planes.write(out, c, [&](std::int32_t, std::int64_t at, std::int64_t floats, const std::uint16_t* mask) {
        ops.affine(epilogue, in + at, static_cast<float>(factor), static_cast<float>(term), out + at, mask, floats);
      });
    }
  }
}

}  // namespace onnxprune::kernels
