// The naive double-precision reference everything is measured against.
#pragma once

#include <cmath>
#include <vector>

#include "kernels.h"

namespace reference {

using namespace onnxprune::kernels;

inline double activate(const Epilogue& e, double x) {
  const double alpha = e.alpha, beta = e.beta;
  switch (e.activation) {
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::leaky_relu: return x < 0 ? alpha * x : x;
    case Activation::clip: return std::fmin(std::fmax(x, alpha), beta);
    case Activation::hard_swish: return x * std::fmin(std::fmax(x / 6 + 0.5, 0.0), 1.0);
    case Activation::hard_sigmoid: return std::fmin(std::fmax(alpha * x + beta, 0.0), 1.0);
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::tanh: return std::tanh(x);
    case Activation::gelu_erf: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: {
      const double u = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * u));  // = x / 2 * (1 + tanh u) without the cancellation
    }
    default: return x;
  }
}

// NCHW convolution; `magnitude` receives sum |w x| + |b| for each output (the scale of rounding).
inline void convolve(const ConvGeometry& g, int images, int height, int width, const float* x,
                     const float* w, const float* bias, const Epilogue& e, const float* residual,
                     std::vector<double>* y, std::vector<double>* magnitude) {
  const int oh = g.out_height(height), ow = g.out_width(width);
  const int in_group = g.in_channels / g.groups, out_group = g.out_channels / g.groups;
  y->assign(static_cast<std::size_t>(images) * g.out_channels * oh * ow, 0.0);
  magnitude->assign(y->size(), 0.0);
  std::size_t at = 0;
  for (int n = 0; n < images; ++n) {
    for (int m = 0; m < g.out_channels; ++m) {
      for (int oy = 0; oy < oh; ++oy) {
        for (int ox = 0; ox < ow; ++ox, ++at) {
          double sum = bias == nullptr ? 0.0 : bias[m], size = std::fabs(sum);
          for (int c = 0; c < in_group; ++c) {
            for (int ky = 0; ky < g.kernel_h; ++ky) {
              for (int kx = 0; kx < g.kernel_w; ++kx) {
                const int iy = oy * g.stride_h + ky * g.dilation_h - g.pad_top;
                const int ix = ox * g.stride_w + kx * g.dilation_w - g.pad_left;
                if (iy < 0 || ix < 0 || iy >= height || ix >= width) continue;
                const std::size_t channel =
                    static_cast<std::size_t>(n) * g.in_channels + m / out_group * in_group + c;
                const double v =
                    static_cast<double>(x[(channel * height + iy) * width + ix]) *
                    w[((static_cast<std::size_t>(m) * in_group + c) * g.kernel_h + ky) *
                          g.kernel_w +
                      kx];
                sum += v;
                size += std::fabs(v);
              }
            }
          }
          const double r = residual == nullptr ? 0.0 : residual[at];
          if (e.residual == Residual::before_activation) sum += r;
          sum = activate(e, sum);
          if (e.residual == Residual::after_activation) sum += r;
          (*y)[at] = sum;
          (*magnitude)[at] = size + std::fabs(r);
        }
      }
    }
  }
}

}  // namespace reference
