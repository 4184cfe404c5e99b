// A depth-wise convolution, one output a channel, whose weights are not known before it runs, and its
// derivatives: what training needs of it. Tensors are dense, [image][channel][row][column].
//
// All of it works on padded planes with zeros between the rows, one a phase of the strides: there, what
// a tap reads lies at one distance from every output, so that a band of rows is one long row. Every sum
// is taken in an order that depends on the sizes alone.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"
#include "../ops/table.h"
#include "axis.h"

namespace onnxprune::kernels {

class Depthwise {
 public:
  // Whether the geometry is depth-wise, and all sizes are within bounds. An output has no pixels
  // where the kernel does not fit.
  static Status check(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
                      std::int64_t width);
  // Of what passes `check`.
  Depthwise(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
            std::int64_t width);

  std::int64_t planes() const { return images_ * channels_; }
  std::int64_t channels() const { return channels_; }
  std::int64_t out_height() const { return rows_.out; }
  std::int64_t out_width() const { return columns_.out; }

  // Planes first .. last - 1 of y, all images' planes counted. `bias` may be null.
  void run(const float* x, const float* w, const float* bias, float* y, std::int64_t first,
           std::int64_t last) const;
  // Planes first .. last - 1 of the derivative by x, from that by y.
  void input_gradient(const float* g, const float* w, float* dx, std::int64_t first,
                      std::int64_t last) const;
  // Channels first .. last - 1 of the derivative by w.
  void weight_gradient(const float* x, const float* g, float* dw, std::int64_t first,
                       std::int64_t last) const;

 private:
  // Rows of all phases in memory: so many in a band, and floats from phase to phase.
  struct Bands {
    std::int64_t rows = 1, phase = 0;
  };

  std::int64_t phases() const;
  std::int64_t phase_of(std::int64_t ky, std::int64_t kx) const;  // of both directions
  std::int64_t vectors(std::int64_t rows) const;
  Bands bands(std::int64_t rows) const;
  std::vector<std::int64_t> tap_offsets(const Bands& bands) const;
  void split(const float* plane, std::int64_t first, std::int64_t count, const Bands& bands,
             float* to) const;
  void spread(const float* plane, std::int64_t first, std::int64_t count, float* to) const;
  void join(const float* from, std::int64_t first, std::int64_t count, const Bands& bands,
            float* plane) const;

  const OpsTable& ops_;
  std::int64_t images_, channels_, taps_;
  WindowAxis rows_, columns_;
  std::int64_t pitch_;
};

}  // namespace onnxprune::kernels
