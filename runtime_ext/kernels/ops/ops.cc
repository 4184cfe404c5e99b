// The operators of ops.h on top of the vector primitives.
#include <algorithm>
#include <initializer_list>
#include <cmath>
#include <limits>

#include "planes.h"

namespace onnxprune::kernels {
namespace {

// ---- pooling ------------------------------------------------------------------------------------

// Windows of plain planes, any stride: first the rows of a window are put together, over the whole
// width, then the columns. Padding never takes part: missing rows are left out, missing columns hold
// what changes nothing, and a mean counts what is there.
class Pool {
 public:
  Pool(const ConvGeometry& g, bool is_max, bool include_pad, const PlaneLayout& in,
       const PlaneLayout& out)
      : g_(g),
        max_(is_max),
        include_pad_(include_pad),
        in_(in),
        out_(out),
        inverse_(static_cast<std::size_t>(g.kernel_h) + 1),
        row_(static_cast<std::size_t>(out.width)) {
    const float nothing = is_max ? -std::numeric_limits<float>::infinity() : 0.0f;
    const std::int64_t width = std::int64_t{g.pad_left} + in.width + g.pad_right;
    evens_ = (width + 1) / 2;
    wide_.assign(static_cast<std::size_t>(width), nothing);
    split_.resize(static_cast<std::size_t>(width));
    for (std::int32_t ky = 0; ky < g.kernel_h; ++ky)
      rows_.push_back(std::int64_t{ky} * g.dilation_h * in.pitch);
    for (std::int32_t kx = 0; kx < g.kernel_w; ++kx) {
      const std::int64_t at = std::int64_t{kx} * g.dilation_w;
      columns_.push_back(g.stride_w == 2 ? at / 2 + at % 2 * evens_ : at);
    }
  }

  void plane(const float* source, float* target) {
    zero_around(out_, target);
    for (std::int32_t y = 0; y < out_.height; ++y) {
      float* row = out_.plain() ? target + out_.lead + static_cast<std::int64_t>(y) * out_.pitch
                                : row_.data();
      windows(source + in_.lead, y, row);
      if (!out_.plain()) spread(y, row, target);
    }
  }

 private:
  void reduce(const float* from, const std::vector<std::int64_t>& offsets, std::int32_t taps,
              float* to, std::int64_t count) const {
    if (max_) {
      ops_.window_max(from, offsets.data(), taps, to, count);
    } else {
      ops_.window_sum(from, offsets.data(), taps, 1.0f, to, count);
    }
  }

  void windows(const float* pixels, std::int32_t y, float* row) {
    const std::int32_t top = y * g_.stride_h - g_.pad_top;
    std::int32_t first = 0, last = g_.kernel_h;  // rows of the window that exist
    while (first < last && top + first * g_.dilation_h < 0) ++first;
    while (last > first && top + (last - 1) * g_.dilation_h >= in_.height) --last;
    const float* from = pixels + (std::int64_t{top} + std::int64_t{first} * g_.dilation_h) * in_.pitch;
    if (pairs()) {
      PoolRow windows;
      windows.in = from;
      windows.rows = rows_.data();
      windows.row_count = last - first;
      windows.width = in_.width;
      windows.pad = g_.pad_left;
      windows.taps = g_.kernel_w;
      windows.out = row;
      windows.outputs = out_.width;
      ops_.pool_row(max_, windows);
      if (!max_) average(row, last - first);
      return;
    }
    if (first < last) {
      reduce(from, rows_,
             last - first, wide_.data() + g_.pad_left, in_.width);
    } else {
      std::fill_n(wide_.begin() + g_.pad_left, in_.width, wide_[0]);
    }
    if (g_.stride_w == 1) {
      reduce(wide_.data(), columns_, g_.kernel_w, row, out_.width);
    } else if (g_.stride_w == 2) {
      ScatterRun halves;
      halves.pixels = evens_;
      halves.other = evens_;
      halves.others = static_cast<std::int64_t>(wide_.size()) - evens_;
      halves.step = 2;
      ops_.scatter(&halves, 1, wide_.data(), 0, split_.data(), 0, 1);
      reduce(split_.data(), columns_, g_.kernel_w, row, out_.width);
    } else {
      for (std::int32_t x = 0; x < out_.width; ++x)
        reduce(wide_.data() + std::int64_t{x} * g_.stride_w, columns_, g_.kernel_w, row + x, 1);
    }
    if (!max_) average(row, last - first);
  }

  // The windows that one pass does.
  bool pairs() const {
    return g_.stride_w == 2 && g_.dilation_w == 1 && g_.kernel_w <= 3;
  }

  // Sums over `rows` rows to means.
  void average(float* row, std::int32_t rows) {
    ops_.binary(Binary::multiply, Epilogue{}, row, inverses(rows), row, nullptr, out_.width);
  }

  // One over the number of pixels in each window of a row of windows that have `rows` rows.
  const float* inverses(std::int32_t rows) {
    std::vector<float>& inverse = inverse_[static_cast<std::size_t>(rows)];
    for (std::int32_t x = static_cast<std::int32_t>(inverse.size()); x < out_.width; ++x) {
      std::int32_t columns = 0;
      for (std::int32_t kx = 0; kx < g_.kernel_w; ++kx) {
        const std::int32_t ix = x * g_.stride_w + kx * g_.dilation_w - g_.pad_left;
        columns += ix >= 0 && ix < in_.width;
      }
      const std::int64_t count = include_pad_ ? g_.taps() : std::int64_t{rows} * columns;
      inverse.push_back(1.0f / static_cast<float>(std::max<std::int64_t>(count, 1)));
    }
    return inverse.data();
  }

  void spread(std::int32_t y, const float* row, float* target) const {
    for (std::int32_t x = 0; x < out_.width; ++x) {
      const std::int32_t slot =
          out_.phase_slot(y % out_.stride_h * out_.stride_w + x % out_.stride_w);
      if (slot < 0) continue;
      target[slot * out_.phase_stride + out_.lead +
             static_cast<std::int64_t>(y / out_.stride_h) * out_.pitch + x / out_.stride_w] =
          row[x];
    }
  }

  const OpsTable& ops_ = active();
  const ConvGeometry& g_;
  bool max_, include_pad_;
  const PlaneLayout& in_;
  const PlaneLayout& out_;
  std::vector<std::int64_t> rows_, columns_;  // offsets of the window's rows, of its columns
  std::int64_t evens_ = 0;
  std::vector<float> wide_, split_;  // rows put together, with padding; the same, evens first
  std::vector<std::vector<float>> inverse_;
  std::vector<float> row_;
};

Status pool(const ConvGeometry& g, bool is_max, bool include_pad, const PlaneLayout& in,
            const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
            std::int32_t last) {
  return guarded([&]() -> Status {
    if (out.height != g.out_height(in.height) || out.width != g.out_width(in.width)) {
      return failure(Code::invalid_argument,
                     "pooling: the output layout is %d x %d, the window yields %d x %d", out.height,
                     out.width, g.out_height(in.height), g.out_width(in.width));
    }
    if (!in.plain()) return failure(Code::unsupported, "pooling: the input is split into phases");
    Pool one(g, is_max, include_pad, in, out);
    for (std::int32_t c = first; c < last; ++c)
      one.plane(source + c * in.plane_stride, planes + c * out.plane_stride);
    return {};
  });
}

}  // namespace

Status max_pool(const ConvGeometry& geometry, const PlaneLayout& in, const float* source,
                const PlaneLayout& out, float* planes, std::int32_t first, std::int32_t last) {
  return pool(geometry, true, false, in, source, out, planes, first, last);
}

Status average_pool(const ConvGeometry& geometry, bool count_include_pad, const PlaneLayout& in,
                    const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
                    std::int32_t last) {
  return pool(geometry, false, count_include_pad, in, source, out, planes, first, last);
}

namespace {

float plane_sum(const PlaneLayout& in, const float* plane) {
  float total = 0.0f;
  for_each_phase(in, [&](const Phase& phase) {
    // Padding inside the flat vector is zero, so it does not disturb the sum.
    total += active().sum(plane + phase.base, flat_pixels(phase.rows, phase.cols, in.pitch));
  });
  return total;
}

}  // namespace

void global_average_pool(const PlaneLayout& in, const float* source, float* result,
                         std::int32_t first, std::int32_t last) {
  const float pixels = static_cast<float>(in.height) * static_cast<float>(in.width);
  for (std::int32_t c = first; c < last; ++c)
    result[c] = plane_sum(in, source + c * in.plane_stride) / pixels;
}

void global_sum_pool(const PlaneLayout& in, const float* source, float factor,
                     const Epilogue& epilogue, float* result, std::int32_t first,
                     std::int32_t last) {
  for (std::int32_t c = first; c < last; ++c)
    result[c] = plane_sum(in, source + c * in.plane_stride) * factor;
  active().finish(epilogue, result + first, nullptr, nullptr, last - first);
}

void global_max_pool(const PlaneLayout& in, const float* source, float* result, std::int32_t first,
                     std::int32_t last) {
  const OpsTable& ops = active();
  for (std::int32_t c = first; c < last; ++c) {
    float best = -std::numeric_limits<float>::infinity();
    for_each_phase(in, [&](const Phase& phase) {
      for (std::int32_t y = 0; y < phase.rows && phase.cols > 0; ++y) {
        const float* row =
            source + c * in.plane_stride + phase.base + static_cast<std::int64_t>(y) * in.pitch;
        best = std::max(best, ops.largest(row, phase.cols));
      }
    });
    result[c] = best;
  }
}

// ---- pointwise ----------------------------------------------------------------------------------

void binary_planes(Binary op, const PlaneLayout& layout, const float* a, const float* b, float* out,
                   const Epilogue& epilogue, std::int32_t first, std::int32_t last) {
  if (layout.plane_stride == 1)  // a contiguous vector
    return active().binary(op, epilogue, a + first, b + first, out + first, nullptr, last - first);
  on_planes(layout, out, first, last,
            [&](std::int32_t, std::int64_t at, std::int64_t count, const std::uint16_t* mask) {
              active().binary(op, epilogue, a + at, b + at, out + at, mask, count);
            });
}

void quantised_sum_planes(const QuantisedSum& sum, const PlaneLayout& layout, const float* a,
                          const float* b, float* out, std::int32_t first, std::int32_t last) {
  on_planes(layout, out, first, last,
            [&](std::int32_t, std::int64_t at, std::int64_t count, const std::uint16_t* mask) {
              active().quantised_sum(sum, a + at, b + at, out + at, mask, count);
            });
}

void affine_planes(const PlaneLayout& layout, const float* a, const float* scale,
                   const float* shift, float* out, const Epilogue& epilogue, std::int32_t first,
                   std::int32_t last) {
  if (layout.plane_stride == 1 && scale == nullptr && shift == nullptr)
    return active().affine(epilogue, a + first, 1.0f, 0.0f, out + first, nullptr, last - first);
  on_planes(layout, out, first, last,
            [&](std::int32_t c, std::int64_t at, std::int64_t count, const std::uint16_t* mask) {
              active().affine(epilogue, a + at, scale == nullptr ? 1.0f : scale[c],
                              shift == nullptr ? 0.0f : shift[c], out + at, mask, count);
            });
}

void decode(const std::uint8_t* from, bool has_sign, float zero, float* to, std::int64_t count) {
  if (has_sign) {
    const auto* const numbers = reinterpret_cast<const std::int8_t*>(from);
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(numbers[i]) - zero;
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) - zero;
  }
}

void encode(const float* from, float zero, bool has_sign, std::uint8_t* to, std::int64_t count) {
  if (has_sign) {
    auto* const numbers = reinterpret_cast<std::int8_t*>(to);
    for (std::int64_t i = 0; i < count; ++i)
      numbers[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(from[i] + zero));
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      to[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(from[i] + zero));
  }
}

void activate(const Epilogue& epilogue, const float* a, float* out, std::int64_t count) {
  active().affine(epilogue, a, 1.0f, 0.0f, out, nullptr, count);
}

// ---- transformers -------------------------------------------------------------------------------

void layer_norm(const PlaneLayout& layout, std::int32_t features, const float* a, const float* b,
                const float* bias, const float* scale, const float* shift, float epsilon,
                bool centred, float* out, float* sum_out, std::int32_t first_token,
                std::int32_t last_token) {
  const std::int64_t lead = layout.lead, stride = layout.plane_stride;
  // Whoever takes the first and the last token also writes the zeros before and behind them.
  for (float* target : {out, sum_out}) {
    if (target == nullptr) continue;
    for (std::int64_t f = 0; f < features; ++f) {
      float* plane = target + f * stride;
      if (first_token == 0) std::fill(plane, plane + lead, 0.0f);
      if (last_token == layout.width) std::fill(plane + lead + layout.width, plane + stride, 0.0f);
    }
  }
  active().layer_norm(stride, features, a + lead, b == nullptr ? nullptr : b + lead, bias, scale,
                      shift, epsilon, centred, out + lead, sum_out == nullptr ? nullptr : sum_out + lead,
                      first_token, last_token);
}

void softmax_rows(const float* in, float* out, std::int64_t row_stride, std::int32_t columns,
                  float scale, const float* mask, std::int64_t mask_stride, std::int64_t first_row,
                  std::int64_t last_row) {
  for (std::int64_t r = first_row; r < last_row; ++r) {
    active().softmax_row(in + r * row_stride, out + r * row_stride, columns, scale,
                         mask == nullptr ? nullptr : mask + r * mask_stride);
  }
}

void matmul_dense(std::int32_t m, std::int32_t n, std::int32_t k, float alpha, const float* a,
                  std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_row,
                  float* c, std::int64_t c_row, std::int32_t first, std::int32_t last) {
  active().matmul(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row, first, std::min(last, m));
}

}  // namespace onnxprune::kernels
