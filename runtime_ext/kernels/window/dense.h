// A convolution of all channels whose weights are not known before it runs, and its derivatives: what
// training needs of it. Tensors are dense, [image][channel][row][column]; weights are
// [output channel][input channel][tap].
//
// All of it reads padded planes, one a phase of the strides, where what a tap reads lies at one distance
// from every output; the zeros behind a row are those before the next one. Every sum is taken in an order
// that depends on the sizes alone.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"
#include "../ops/table.h"
#include "axis.h"

namespace onnxprune::kernels {

// The weights of output channels first .. first + rows - 1 with those innermost: `taps` taps of each input
// channel, [term][rows], `step` floats from term to term. With `turned` they are those of the convolution
// whose input derivative this one computes, [input channel][output channel][tap] and turned around.
void pack_weights(const OpsTable& ops, const float* w, bool turned, std::int64_t inputs,
                  std::int64_t outputs, std::int64_t taps, std::int64_t first, std::int64_t rows,
                  float* to, std::int64_t step);

class Dense {
 public:
  // Whether there is one group, and all sizes are within bounds. An output has no pixels where the
  // kernel does not fit.
  static Status check(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
                      std::int64_t width);
  // Of what passes `check`.
  Dense(const ConvGeometry& geometry, std::int64_t images, std::int64_t height, std::int64_t width);

  // Whether the derivative by the input is a convolution of that by the output, and which: of stride 1,
  // with no more padding than its kernel covers.
  static bool turns(const ConvGeometry& geometry);
  static ConvGeometry turned(const ConvGeometry& geometry, const Dense& of);

  std::int64_t out_height() const { return rows_.out; }
  std::int64_t out_width() const { return columns_.out; }

  // Weights in the order that `run` reads them in, blocks of output channels first .. last - 1. With
  // `turned` they are those of the convolution that this one is the turned one of.
  std::int64_t blocks() const;
  std::int64_t packed_floats() const { return (by_lines_ ? lines() : out_channels_) * terms(); }
  void pack(const float* w, bool turned, float* packed, std::int64_t first, std::int64_t last) const;
  // Bands of rows first .. last - 1 of y, all images' bands counted. `bias` may be null.
  std::int64_t bands() const;
  void run(const float* x, const float* packed, const float* bias, float* y, std::int64_t first,
           std::int64_t last) const;

  // The derivative by y, channels innermost, of images first .. last - 1: [image][row][column][lines].
  std::int64_t lines() const;
  void turn_out(const float* g, float* to, std::int64_t first, std::int64_t last) const;
  // The derivative by w of input channels first .. last - 1, from what `turn_out` made.
  void weight_gradient(const float* x, const float* g, float* dw, std::int64_t first,
                       std::int64_t last) const;

 private:
  // Vectors of the rows of a band one by one, or of all as one long row, whichever are fewer.
  struct Cut {
    bool joined = false, direct = true;  // direct: they can be stored where they belong
    std::int64_t span = 0;               // of all as one long row
    std::int64_t vectors = 0;
  };
  Cut cut(std::int64_t rows) const;
  void run_pixels(const float* in, const std::int64_t* reads, const float* packed, const float* bias,
                  float* y, std::int64_t rows, float* held) const;
  void run_lines(const float* in, const std::int64_t* reads, const float* packed, const float* bias,
                 float* y, std::int64_t rows, float* held) const;
  std::int64_t terms() const { return in_channels_ * taps_; }
  std::int64_t phases() const;
  std::int64_t block_begin(std::int64_t block) const { return out_channels_ * block / blocks(); }
  void split(const float* x, std::int64_t image, std::int64_t channel, std::int64_t channels,
             std::int64_t row, std::int64_t count, float* to) const;
  std::vector<std::int64_t> offsets(std::int64_t channels) const;
  std::vector<std::int64_t> pixels(std::int64_t rows) const;

  const OpsTable& ops_;
  std::int64_t images_, in_channels_, out_channels_, taps_;
  WindowAxis rows_, columns_;
  std::int64_t pitch_ = 1, tail_ = 0;
  std::int64_t band_ = 1;   // rows of outputs
  std::int64_t phase_ = 0;  // floats of one phase of a band
  bool by_lines_ = false;   // vectors are of output channels, not of pixels
};

}  // namespace onnxprune::kernels
