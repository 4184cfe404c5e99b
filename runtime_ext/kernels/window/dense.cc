#include "dense.h"

#include <algorithm>
#include <memory>

#include "../cpu.h"

namespace onnxprune::kernels {
namespace {

// Floats of a band of all channels: they should stay in the second cache.
constexpr std::int64_t kBand = 64 << 10;
constexpr double kMostHeld = 1 << 30;

// Memory that is written before it is read.
std::unique_ptr<float[]> memory(std::int64_t floats) {
  return std::unique_ptr<float[]>(new float[static_cast<std::size_t>(floats)]);
}

}  // namespace

void pack_weights(const OpsTable& ops, const float* w, bool turned, std::int64_t inputs,
                  std::int64_t outputs, std::int64_t taps, std::int64_t first, std::int64_t rows,
                  float* to, std::int64_t step) {
  if (!turned) {
    ops.transpose(w + first * inputs * taps, inputs * taps, rows, inputs * taps, to, step);
    return;
  }
  for (std::int64_t in = 0; in < inputs; ++in) {
    const float* const from = w + (in * outputs + first) * taps;
    for (std::int64_t tap = taps - 1; tap >= 0; --tap, to += step)
      for (std::int64_t r = 0; r < rows; ++r) to[r] = from[r * taps + tap];
  }
}

Status Dense::check(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                    std::int64_t width) {
  if (Status status = check_window(g, images, height, width); !status.ok()) return status;
  if (g.groups != 1)
    return failure(Code::invalid_argument, "dense convolution: %d groups", g.groups);
  const WindowAxis rows = rows_of(g, height), columns = columns_of(g, width);
  const double held = static_cast<double>(columns.out + columns.reach() + 64) *
                      static_cast<double>(3 * rows.reach() + 8) *
                      static_cast<double>(rows.phases.size() * columns.phases.size()) *
                      static_cast<double>(std::max(g.in_channels, g.out_channels));
  if (held > kMostHeld)
    return failure(Code::unsupported, "dense convolution: %lld x %lld pixels are too many",
                   static_cast<long long>(height), static_cast<long long>(width));
  return {};
}

Dense::Dense(const ConvGeometry& g, std::int64_t images, std::int64_t height, std::int64_t width)
    : ops_(ops_table(active_isa())),
      images_(images),
      in_channels_(g.in_channels),
      out_channels_(g.out_channels),
      taps_(g.taps()),
      rows_(rows_of(g, height)),
      columns_(columns_of(g, width)) {
  // What a tap reads behind a row must be zero at the begin of the next one.
  const std::int64_t read = columns_.out + columns_.reach();
  for (const std::int64_t phase : columns_.phases) {
    std::int64_t begin, end;
    columns_.inside(phase, read, &begin, &end);
    pitch_ = std::max({pitch_, end, begin < end ? read - begin : read});
  }
  tail_ = read - std::min(read, pitch_) + ops_.width;
  // Few rows over many that they reach would be copied again and again.
  const std::int64_t fit = kBand / (pitch_ * phases() * in_channels_) - rows_.reach();
  const std::int64_t least = std::max<std::int64_t>(4, 2 * rows_.reach());
  band_ = std::min(std::max(fit, least), std::max<std::int64_t>(rows_.out, 1));
  phase_ = (band_ + rows_.reach()) * pitch_ + tail_;
  by_lines_ = lines() * band_ * columns_.out < out_channels_ * cut(band_).vectors * ops_.width;
}

bool Dense::turns(const ConvGeometry& g) {
  const auto fits = [](std::int32_t kernel, std::int32_t dilation, std::int32_t before, std::int32_t after) {
    return std::max(before, after) <= (kernel - 1) * std::int64_t{dilation};
  };
  return g.stride_h == 1 && g.stride_w == 1 && fits(g.kernel_h, g.dilation_h, g.pad_top, g.pad_bottom) &&
         fits(g.kernel_w, g.dilation_w, g.pad_left, g.pad_right);
}

ConvGeometry Dense::turned(const ConvGeometry& g, const Dense& of) {
  ConvGeometry t = g;
  std::swap(t.in_channels, t.out_channels);
  const auto direction = [](const WindowAxis& axis, std::int32_t* before, std::int32_t* after) {
    *before = static_cast<std::int32_t>(axis.reach() - axis.pad);
    *after = static_cast<std::int32_t>(axis.size - axis.out + axis.pad);
  };
  direction(of.rows_, &t.pad_top, &t.pad_bottom);
  direction(of.columns_, &t.pad_left, &t.pad_right);
  return t;
}

std::int64_t Dense::phases() const {
  return static_cast<std::int64_t>(rows_.phases.size() * columns_.phases.size());
}

std::int64_t Dense::blocks() const {
  return by_lines_ ? lines() / ops_.width : (out_channels_ + ops_.dense_rows - 1) / ops_.dense_rows;
}

std::int64_t Dense::bands() const { return images_ * ((rows_.out + band_ - 1) / band_); }

std::int64_t Dense::lines() const { return (out_channels_ + ops_.width - 1) / ops_.width * ops_.width; }

// What the terms of the first output of a band read, of so many channels.
std::vector<std::int64_t> Dense::offsets(std::int64_t channels) const {
  std::vector<std::int64_t> found;
  const auto across = static_cast<std::int64_t>(columns_.phases.size());
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (std::int64_t ky = 0; ky < rows_.kernel; ++ky) {
      for (std::int64_t kx = 0; kx < columns_.kernel; ++kx) {
        const std::int64_t phase = rows_.phase_of(ky) * across + columns_.phase_of(kx);
        found.push_back((channel * phases() + phase) * phase_ + rows_.shift(ky) * pitch_ +
                        columns_.shift(kx));
      }
    }
  }
  return found;
}

void Dense::split(const float* x, std::int64_t image, std::int64_t channel, std::int64_t channels,
                  std::int64_t row, std::int64_t count, float* to) const {
  const std::int64_t area = rows_.size * columns_.size;
  x += (image * in_channels_ + channel) * area;
  for (std::int64_t i = 0; i < channels; ++i, x += area, to += phases() * phase_)
    split_phases(rows_, columns_, x, row, count + rows_.reach(), pitch_, tail_, phase_, to);
}

// Distances of the outputs of so many rows from the first one.
std::vector<std::int64_t> Dense::pixels(std::int64_t rows) const {
  std::vector<std::int64_t> found;
  for (std::int64_t y = 0; y < rows; ++y)
    for (std::int64_t x = 0; x < columns_.out; ++x) found.push_back(y * pitch_ + x);
  return found;
}

void Dense::pack(const float* w, bool turned, float* packed, std::int64_t first,
                 std::int64_t last) const {
  for (std::int64_t block = first; block < last; ++block) {
    const std::int64_t channel = by_lines_ ? block * ops_.width : block_begin(block);
    const std::int64_t end = by_lines_ ? std::min(channel + ops_.width, out_channels_) : block_begin(block + 1);
    const std::int64_t rows = end - channel, step = by_lines_ ? lines() : rows;
    float* const to = by_lines_ ? packed + channel : packed + channel * terms();
    if (by_lines_ && rows < ops_.width)
      for (std::int64_t t = 0; t < terms(); ++t) std::fill_n(to + t * step + rows, ops_.width - rows, 0.0f);
    pack_weights(ops_, w, turned, in_channels_, out_channels_, taps_, channel, rows, to, step);
  }
}

Dense::Cut Dense::cut(std::int64_t rows) const {
  const auto up = [&](std::int64_t count) { return (count + ops_.width - 1) / ops_.width; };
  Cut c;
  c.span = (rows - 1) * pitch_ + columns_.out;
  c.vectors = rows * up(columns_.out);
  c.joined = up(c.span) < c.vectors;
  if (c.joined) c.vectors = up(c.span);
  c.direct = !c.joined || pitch_ == columns_.out;
  return c;
}

void Dense::run(const float* x, const float* packed, const float* bias, float* y, std::int64_t first,
                std::int64_t last) const {
  const std::int64_t each = (rows_.out + band_ - 1) / band_, width = columns_.out;
  if (rows_.out * width == 0) return;
  const std::vector<std::int64_t> reads = offsets(in_channels_);
  const auto in = memory(in_channels_ * phases() * phase_);
  const auto held = memory(by_lines_ ? lines() * band_ * width : ops_.dense_rows * cut(band_).vectors * ops_.width);
  for (std::int64_t item = first; item < last; ++item) {
    const std::int64_t image = item / each, row = item % each * band_;
    const std::int64_t count = std::min(band_, rows_.out - row);
    split(x, image, 0, in_channels_, row, count, in.get());
    float* const to = y + (image * out_channels_ * rows_.out + row) * width;
    if (by_lines_)
      run_lines(in.get(), reads.data(), packed, bias, to, count, held.get());
    else
      run_pixels(in.get(), reads.data(), packed, bias, to, count, held.get());
  }
}

void Dense::run_pixels(const float* in, const std::int64_t* reads, const float* packed,
                       const float* bias, float* y, std::int64_t rows, float* held) const {
  const Cut c = cut(rows);
  const std::int64_t width = columns_.out, area = rows_.out * width, lanes = ops_.width;
  std::vector<DenseVector> vectors;
  vectors.reserve(static_cast<std::size_t>(c.vectors));
  const auto add = [&](std::int64_t from, std::int64_t to, std::int64_t length) {
    for (std::int64_t i = 0; i < length; i += lanes)
      vectors.push_back({from + i, to + i, static_cast<int>(std::min(lanes, length - i))});
  };
  if (c.joined) add(0, 0, c.span);
  for (std::int64_t r = 0; !c.joined && r < rows; ++r) add(r * pitch_, r * width, width);
  DenseSums job;
  job.in = in, job.offsets = reads, job.terms = terms();
  job.vectors = vectors.data(), job.count = c.vectors;
  job.out_stride = c.direct ? area : c.vectors * lanes;
  for (std::int64_t block = 0; block < blocks(); ++block) {
    const std::int64_t channel = block_begin(block);
    float* const to = y + channel * area;
    job.rows = static_cast<int>(block_begin(block + 1) - channel);
    job.weights = packed + channel * terms();
    job.bias = bias == nullptr ? nullptr : bias + channel;
    job.out = c.direct ? to : held;
    ops_.dense_sums(job);
    for (std::int64_t i = 0; !c.direct && i < job.rows; ++i)
      for (std::int64_t r = 0; r < rows; ++r)
        take(held + i * job.out_stride + r * pitch_, 1, width, to + i * area + r * width);
  }
}

void Dense::run_lines(const float* in, const std::int64_t* reads, const float* packed,
                      const float* bias, float* y, std::int64_t rows, float* held) const {
  const std::vector<std::int64_t> places = pixels(rows);
  const auto count = static_cast<std::int64_t>(places.size());
  for (std::int64_t i = 0; i < count; ++i) {
    float* const sums = held + i * lines();
    std::fill_n(sums, lines(), 0.0f);
    if (bias != nullptr) std::copy_n(bias, out_channels_, sums);
  }
  LineSums job;
  job.in = in, job.lines = lines(), job.factors = packed, job.sums = held;
  job.outer = places.data(), job.outers = count;
  job.inner = reads, job.inners = terms();
  ops_.line_sums(job);
  ops_.transpose(held, lines(), count, out_channels_, y, rows_.out * columns_.out);
}

void Dense::turn_out(const float* g, float* to, std::int64_t first, std::int64_t last) const {
  const std::int64_t area = rows_.out * columns_.out, spare = lines() - out_channels_;
  for (std::int64_t image = first; image < last; ++image) {
    float* const at = to + image * area * lines();
    ops_.transpose(g + image * out_channels_ * area, area, out_channels_, area, at, lines());
    for (std::int64_t i = 0; spare > 0 && i < area; ++i)
      std::fill_n(at + i * lines() + out_channels_, spare, 0.0f);
  }
}

void Dense::weight_gradient(const float* x, const float* g, float* dw, std::int64_t first,
                            std::int64_t last) const {
  const std::int64_t channels = last - first;
  const std::vector<std::int64_t> reads = offsets(channels);
  const auto in = memory(channels * phases() * phase_);
  std::vector<float> sums(static_cast<std::size_t>(channels * taps_ * lines()));
  const std::vector<std::int64_t> places = pixels(std::min(band_, rows_.out));
  LineSums job;
  job.in = in.get(), job.lines = lines(), job.sums = sums.data();
  job.outer = reads.data(), job.outers = channels * taps_;
  job.inner = places.data();
  for (std::int64_t image = 0; image < images_; ++image) {
    for (std::int64_t row = 0; row < rows_.out; row += band_) {
      const std::int64_t count = std::min(band_, rows_.out - row);
      job.inners = count * columns_.out;
      job.factors = g + (image * rows_.out + row) * columns_.out * lines();
      split(x, image, first, channels, row, count, in.get());
      ops_.line_sums(job);
    }
  }
  ops_.transpose(sums.data(), lines(), channels * taps_, out_channels_, dw + first * taps_, terms());
}

}  // namespace onnxprune::kernels
