// Normalisations of images, on planes. All use the active instruction set.
#pragma once

#include <cstdint>

#include "layout.h"
#include "plan.h"

namespace onnxprune::kernels {

// Local response normalisation across channels (Krizhevsky et al., 2012), as ONNX's LRN defines it:
//   y = x / (bias + alpha / size * sum of the squares of the channels around)^beta
// over floor((size - 1) / 2) channels before and ceil((size - 1) / 2) behind, as far as there are any. To about
// 5e-7 of each number; zero where the sum is beyond the floats.
struct ResponseNorm {
  std::int32_t size = 1;
  float alpha = 0.0f, beta = 0.75f, bias = 1.0f;
};
// What the kernel computes: the sums stay normal numbers, and so does the power of the bias.
bool check_response_norm(const ResponseNorm& norm);
// Channels first .. last-1 of an image of `channels`, whose planes are zero around the pixels.
void response_norm(const ResponseNorm& norm, const PlaneLayout& layout, std::int32_t channels,
                   const float* in, float* out, std::int32_t first, std::int32_t last);

// out = act((x - mean) / sqrt(variance + epsilon) * scale[c] + shift[c]), with mean and variance over all pixels
// of `channels` channels that follow each other (Wu and He, 2018; one channel: instance normalisation).
// `scale` and `shift` may be null (1, 0). Groups first .. last-1; out may equal in.
void group_norm(const PlaneLayout& layout, std::int32_t channels, const float* in, const float* scale,
                const float* shift, float epsilon, const Epilogue& epilogue, float* out,
                std::int32_t first, std::int32_t last);

}  // namespace onnxprune::kernels
