#include "depthwise.h"

#include <algorithm>

#include "../cpu.h"

namespace onnxprune::kernels {
namespace {

// Floats of a band's phases: they and what is made of them should stay in the first cache.
constexpr std::int64_t kBand = 6 << 10;
constexpr double kMostHeld = 1 << 30;

void zero(float* begin, float* end) { std::fill(begin, end, 0.0f); }

}  // namespace

Status Depthwise::check(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                        std::int64_t width) {
  if (Status status = check_window(g, images, height, width); !status.ok()) return status;
  if (g.groups != g.in_channels || g.groups != g.out_channels)
    return failure(Code::invalid_argument,
                   "depth-wise convolution: %d groups, but %d input and %d output channels",
                   g.groups, g.in_channels, g.out_channels);
  const WindowAxis rows = rows_of(g, height), columns = columns_of(g, width);
  const double held = static_cast<double>(columns.out + columns.reach()) *
                      static_cast<double>(3 * rows.reach() + 8) *
                      static_cast<double>(rows.phases.size() * columns.phases.size());
  if (held > kMostHeld)
    return failure(Code::unsupported, "depth-wise convolution: %lld x %lld pixels are too many",
                   static_cast<long long>(height), static_cast<long long>(width));
  return {};
}

Depthwise::Depthwise(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                     std::int64_t width)
    : ops_(ops_table(active_isa())),
      images_(images),
      channels_(g.in_channels),
      taps_(g.taps()),
      rows_(rows_of(g, height)),
      columns_(columns_of(g, width)),
      pitch_(columns_.out + columns_.reach()) {}

std::int64_t Depthwise::phases() const {
  return static_cast<std::int64_t>(rows_.phases.size() * columns_.phases.size());
}

std::int64_t Depthwise::phase_of(std::int64_t ky, std::int64_t kx) const {
  return rows_.phase_of(ky) * static_cast<std::int64_t>(columns_.phases.size()) +
         columns_.phase_of(kx);
}

std::int64_t Depthwise::vectors(std::int64_t rows) const {
  return (rows * pitch_ + ops_.width - 1) / ops_.width;
}

// Of `rows` in all. Few rows over many that they reach would be copied again and again.
Depthwise::Bands Depthwise::bands(std::int64_t rows) const {
  Bands b;
  const std::int64_t fit = kBand / std::max<std::int64_t>(1, pitch_ * phases()) - rows_.reach();
  const std::int64_t least = std::max<std::int64_t>(4, 2 * rows_.reach());
  b.rows = std::min(std::max(fit, least), std::max<std::int64_t>(rows, 1));
  b.phase = (b.rows + rows_.reach()) * pitch_ + columns_.reach() + ops_.width;
  return b;
}

// Where the taps of the first output of a band read.
std::vector<std::int64_t> Depthwise::tap_offsets(const Bands& bands) const {
  std::vector<std::int64_t> offsets;
  for (std::int64_t ky = 0; ky < rows_.kernel; ++ky) {
    for (std::int64_t kx = 0; kx < columns_.kernel; ++kx) {
      offsets.push_back(phase_of(ky, kx) * bands.phase + rows_.shift(ky) * pitch_ + columns_.shift(kx));
    }
  }
  return offsets;
}

// What `count` rows of outputs from `first` on read, phase by phase, with the padding.
void Depthwise::split(const float* plane, std::int64_t first, std::int64_t count,
                      const Bands& bands, float* to) const {
  split_phases(rows_, columns_, plane, first, count + rows_.reach(), pitch_,
               columns_.reach() + ops_.width, bands.phase, to);
}

// `count` rows of outputs from `first` on, with zeros between them and where there are none.
void Depthwise::spread(const float* plane, std::int64_t first, std::int64_t count, float* to) const {
  for (std::int64_t y = first; y < first + count; ++y, to += pitch_) {
    const std::int64_t pixels = y >= 0 && y < rows_.out ? columns_.out : 0;
    if (pixels > 0) take(plane + y * columns_.out, 1, pixels, to);
    zero(to + pixels, to + pitch_);
  }
  zero(to, to + ops_.width);
}

// The inverse of `split`, with neither padding nor rows reached beyond: what the tensor has of phase
// rows first .. first + count - 1, and zeros where no tap reads.
void Depthwise::join(const float* from, std::int64_t first, std::int64_t count, const Bands& bands,
                     float* plane) const {
  const std::int64_t step = columns_.stride, width = columns_.size;
  const std::int64_t begin = std::max<std::int64_t>(0, first * rows_.stride - rows_.pad);
  const std::int64_t end = std::min(rows_.size, (first + count) * rows_.stride - rows_.pad);
  // Whether what lies in the phases is all of a row.
  const bool whole = static_cast<std::int64_t>(columns_.phases.size()) == step &&
                     columns_.pad + width <= pitch_ * step;
  for (std::int64_t y = begin; y < end; ++y) {
    float* const row = plane + y * width;
    const std::int64_t place = rows_.find((y + rows_.pad) % rows_.stride);
    if (place < 0 || !whole) zero(row, row + width);
    if (place < 0) continue;
    const float* in = from + ((y + rows_.pad) / rows_.stride - first) * pitch_ +
                      place * static_cast<std::int64_t>(columns_.phases.size()) * bands.phase;
    if (whole && step == 2) {
      const auto pixels = [&](std::int64_t x) {
        return in + columns_.find(x % 2) * bands.phase + x / 2;
      };
      ops_.interleave(pixels(columns_.pad), pixels(columns_.pad + 1), row, width);
      continue;
    }
    for (const std::int64_t phase : columns_.phases) {
      std::int64_t i, last;
      columns_.inside(phase, pitch_, &i, &last);
      float* const to = row + i * step + phase - columns_.pad;
      if (step == 1) {
        std::copy(in + i, in + last, to);
      } else {
        for (std::int64_t k = 0; k < last - i; ++k) to[k * step] = in[i + k];
      }
      in += bands.phase;
    }
  }
}

void Depthwise::run(const float* x, const float* w, const float* bias, float* y, std::int64_t first,
                    std::int64_t last) const {
  const Bands b = bands(rows_.out);
  const std::vector<std::int64_t> offsets = tap_offsets(b);
  std::vector<float> in(static_cast<std::size_t>(phases() * b.phase));
  std::vector<float> sums(static_cast<std::size_t>(vectors(b.rows) * ops_.width));
  for (std::int64_t plane = first; plane < last; ++plane) {
    const std::int64_t channel = plane % channels_;
    const float* const from = x + plane * rows_.size * columns_.size;
    float* const to = y + plane * rows_.out * columns_.out;
    for (std::int64_t row = 0; row < rows_.out; row += b.rows) {
      const std::int64_t count = std::min(b.rows, rows_.out - row);
      split(from, row, count, b, in.data());
      ops_.tap_sums(in.data(), offsets.data(), w + channel * taps_, taps_,
                    bias == nullptr ? 0.0f : bias[channel], sums.data(), vectors(count));
      for (std::int64_t r = 0; r < count; ++r)
        take(sums.data() + r * pitch_, 1, columns_.out, to + (row + r) * columns_.out);
    }
  }
}

void Depthwise::input_gradient(const float* g, const float* w, float* dx, std::int64_t first,
                               std::int64_t last) const {
  // Phase row j reads rows j - reach .. j of g.
  const std::int64_t all = rows_.size == 0 ? 0 : (rows_.size - 1 + rows_.pad) / rows_.stride + 1;
  const Bands b = bands(all);
  const std::int64_t reach = rows_.reach(), lead = columns_.reach();
  struct Phase {
    std::vector<std::int64_t> offsets;
    std::vector<std::int64_t> taps;
  };
  std::vector<Phase> phase(static_cast<std::size_t>(phases()));
  for (std::int64_t ky = 0; ky < rows_.kernel; ++ky) {
    for (std::int64_t kx = 0; kx < columns_.kernel; ++kx) {
      Phase& p = phase[static_cast<std::size_t>(phase_of(ky, kx))];
      p.offsets.push_back(lead + (reach - rows_.shift(ky)) * pitch_ - columns_.shift(kx));
      p.taps.push_back(ky * columns_.kernel + kx);
    }
  }
  std::vector<float> in(static_cast<std::size_t>(lead + (b.rows + reach) * pitch_ + ops_.width));
  std::vector<float> sums(static_cast<std::size_t>(phases() * b.phase));
  std::vector<float> weights(static_cast<std::size_t>(taps_));
  for (std::int64_t plane = first; plane < last; ++plane) {
    const float* const kernel = w + plane % channels_ * taps_;
    float* const to = dx + plane * rows_.size * columns_.size;
    for (std::int64_t row = 0; row < all; row += b.rows) {
      const std::int64_t count = std::min(b.rows, all - row);
      spread(g + plane * rows_.out * columns_.out, row - reach, count + reach, in.data() + lead);
      float* out = sums.data();
      for (const Phase& p : phase) {
        for (std::size_t t = 0; t < p.taps.size(); ++t) weights[t] = kernel[p.taps[t]];
        ops_.tap_sums(in.data(), p.offsets.data(), weights.data(),
                      static_cast<std::int64_t>(p.taps.size()), 0.0f, out, vectors(count));
        out += b.phase;
      }
      join(sums.data(), row, count, b, to);
    }
  }
}

void Depthwise::weight_gradient(const float* x, const float* g, float* dw, std::int64_t first,
                                std::int64_t last) const {
  const Bands b = bands(rows_.out);
  const std::vector<std::int64_t> offsets = tap_offsets(b);
  std::vector<float> in(static_cast<std::size_t>(phases() * b.phase));
  std::vector<float> out(static_cast<std::size_t>(b.rows * pitch_ + ops_.width));
  std::vector<float> sums(static_cast<std::size_t>(taps_));
  std::vector<double> totals(static_cast<std::size_t>(taps_));
  for (std::int64_t channel = first; channel < last; ++channel) {
    std::fill(totals.begin(), totals.end(), 0.0);
    for (std::int64_t image = 0; image < images_; ++image) {
      const std::int64_t plane = image * channels_ + channel;
      for (std::int64_t row = 0; row < rows_.out; row += b.rows) {
        const std::int64_t count = std::min(b.rows, rows_.out - row);
        split(x + plane * rows_.size * columns_.size, row, count, b, in.data());
        spread(g + plane * rows_.out * columns_.out, row, count, out.data());
        ops_.tap_dots(in.data(), offsets.data(), taps_, out.data(), vectors(count), sums.data());
        for (std::size_t t = 0; t < sums.size(); ++t) totals[t] += static_cast<double>(sums[t]);
      }
    }
    for (std::int64_t t = 0; t < taps_; ++t)
      dw[channel * taps_ + t] = static_cast<float>(totals[static_cast<std::size_t>(t)]);
  }
}

}  // namespace onnxprune::kernels
