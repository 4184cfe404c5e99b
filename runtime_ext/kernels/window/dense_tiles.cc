#include "dense_tiles.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "../cpu.h"
#include "dense.h"

namespace onnxprune::kernels {
namespace {

constexpr int kPoints = 16, kTaps = 9;
constexpr std::int64_t kStrip = 64 << 10;  // floats of a band's transformed inputs: of the second cache
constexpr std::int64_t kMostSide = 8, kMostPieces = 4;
// Fewer channels than this do not make up for transforming inputs and outputs.
constexpr std::int32_t kLeastChannels = 8;
// Larger weights, transformed, are read from too far away.
constexpr std::int64_t kMostWeights = 256 * 256, kMostSlopes = 128 << 10;

std::int64_t up(std::int64_t count, std::int64_t unit) { return (count + unit - 1) / unit; }

std::unique_ptr<float[]> memory(std::int64_t floats) {
  return std::unique_ptr<float[]>(new float[static_cast<std::size_t>(floats)]);
}

// G w G^T of the 3 x 3 taps of N output channels, lanes innermost; rows of points are `row_stride` apart.
template <int N>
void transform_taps(const float* w, float* to, std::int64_t row_stride) {
  float down[4][3][N];
  for (int b = 0; b < 3; ++b) {
    for (int r = 0; r < N; ++r) {
      const float w0 = w[b * N + r], w1 = w[(3 + b) * N + r], w2 = w[(6 + b) * N + r];
      const float outer = 0.5f * (w0 + w2), inner = 0.5f * w1;
      down[0][b][r] = w0, down[1][b][r] = outer + inner, down[2][b][r] = outer - inner, down[3][b][r] = w2;
    }
  }
  for (int i = 0; i < 4; ++i, to += row_stride) {
    for (int r = 0; r < N; ++r) {
      const float outer = 0.5f * (down[i][0][r] + down[i][2][r]), inner = 0.5f * down[i][1][r];
      to[r] = down[i][0][r], to[N + r] = outer + inner, to[2 * N + r] = outer - inner, to[3 * N + r] = down[i][2][r];
    }
  }
}

// G^T s G of `lines` numbers a point, `point_stride` apart: 9 lines.
void transform_slopes(const float* s, std::int64_t point_stride, std::int64_t lines, float* to) {
  constexpr int kSome = 4;  // a multiple of every vector's width
  for (std::int64_t at = 0; at < lines; at += kSome) {
    float down[3][4][kSome];
    for (int j = 0; j < 4; ++j) {
      for (int r = 0; r < kSome; ++r) {
        const auto point = [&](int i) { return s[(4 * i + j) * point_stride + at + r]; };
        const float sum = 0.5f * (point(1) + point(2));
        down[0][j][r] = point(0) + sum, down[1][j][r] = 0.5f * (point(1) - point(2)), down[2][j][r] = sum + point(3);
      }
    }
    for (int i = 0; i < 3; ++i) {
      float* const row = to + 3 * i * lines + at;
      for (int r = 0; r < kSome; ++r) {
        const float sum = 0.5f * (down[i][1][r] + down[i][2][r]);
        row[r] = down[i][0][r] + sum;
        row[lines + r] = 0.5f * (down[i][1][r] - down[i][2][r]);
        row[2 * lines + r] = sum + down[i][3][r];
      }
    }
  }
}

}  // namespace

bool DenseTiles::fits(const ConvGeometry& g, std::int64_t height, std::int64_t width) {
  return g.groups == 1 && g.kernel_h == 3 && g.kernel_w == 3 && g.stride_h == 1 && g.stride_w == 1 &&
         g.dilation_h == 1 && g.dilation_w == 1 && std::min(g.in_channels, g.out_channels) >= kLeastChannels &&
         std::int64_t{g.in_channels} * g.out_channels <= kMostWeights &&
         std::min(rows_of(g, height).out, columns_of(g, width).out) > 1;
}

DenseTiles::DenseTiles(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                       std::int64_t width)
    : ops_(ops_table(active_isa())),
      images_(images),
      in_channels_(g.in_channels),
      out_channels_(g.out_channels),
      rows_(rows_of(g, height)),
      columns_(columns_of(g, width)),
      tile_rows_(up(rows_.out, 2)),
      across_(up(columns_.out, 2)) {
  // What an image reads behind its pixels may be the zeros before the next one.
  std::int64_t begin, end;
  columns_.inside(0, columns_.out + 2, &begin, &end);
  step_ = up(std::max(end, begin < end ? columns_.out + 2 - begin : columns_.out + 2), 2) * 2;
  // A half vector of tiles never leaves its row: as many images as make the fewest vectors.
  const std::int64_t half = ops_.width / 2;
  const auto row = [&](std::int64_t side) { return up((side - 1) * step_ / 2 + across_, half) * half; };
  const auto vectors = [&](std::int64_t side) {
    return up(images, side) * up(row(side) * tile_rows_, ops_.width);
  };
  for (std::int64_t side = 2; side <= std::min(images, kMostSide); ++side)
    if (vectors(side) < vectors(side_)) side_ = side;
  tiles_ = row(side_);
  pitch_ = (side_ - 1) * step_ + 2 * across_ + 2;
  strip_ = std::max<std::int64_t>(1, kStrip / (kPoints * in_channels_) / tiles_);
  if (tiles_ % ops_.width != 0) strip_ = up(strip_, 2) * 2;  // whole vectors
  strip_ = std::min(strip_, tile_rows_);
}

std::int64_t DenseTiles::lines() const { return up(out_channels_, ops_.width) * ops_.width; }

std::int64_t DenseTiles::blocks() const { return up(out_channels_, ops_.winograd_outputs(4)); }

std::int64_t DenseTiles::packed_floats() const {
  return blocks() * ops_.winograd_outputs(4) * kPoints * in_channels_;
}

// Floats from input to input of a transformed band: an odd number of lines of the cache.
std::int64_t DenseTiles::stride() const {
  const std::int64_t line = 16, floats = up(strip_ * tiles_, std::max<std::int64_t>(line, ops_.width)) * line;
  return floats / line % 2 == 0 ? floats + line : floats;
}

DenseTiles::Band DenseTiles::band(std::int64_t index) const {
  Band b;
  b.image = index / strips() * side_;
  b.images = std::min(side_, images_ - b.image);
  b.row = index % strips() * strip_;
  b.rows = std::min(strip_, tile_rows_ - b.row);
  return b;
}

void DenseTiles::pack(const float* w, bool turned, float* packed, std::int64_t first,
                      std::int64_t last) const {
  const std::int64_t n = ops_.winograd_outputs(4), row_stride = in_channels_ * 4 * n;
  std::vector<float> taps(static_cast<std::size_t>(in_channels_ * kTaps * n));
  for (std::int64_t block = first; block < last; ++block) {
    const std::int64_t rows = std::min(n, out_channels_ - block * n);
    if (rows < n) std::fill(taps.begin(), taps.end(), 0.0f);
    pack_weights(ops_, w, turned, in_channels_, out_channels_, kTaps, block * n, rows, taps.data(), n);
    float* const to = packed + block * n * kPoints * in_channels_;
    for (std::int64_t c = 0; c < in_channels_; ++c) {
      const float* const from = taps.data() + c * kTaps * n;
      switch (n) {
        case 2: transform_taps<2>(from, to + c * 4 * n, row_stride); break;
        default: transform_taps<4>(from, to + c * 4 * n, row_stride); break;
      }
    }
  }
}

// Input c of point p: points[p * point_floats() + c * stride() + tile].
void DenseTiles::transform(const float* x, const Band& b, float* plane, float* points) const {
  const std::int64_t area = rows_.size * columns_.size, reads = 2 * b.rows + 2;
  WinogradInput job;
  job.end = plane + reads * pitch_;
  job.pitch = pitch_, job.tiles = tiles_, job.out_stride = point_floats();
  for (std::int64_t c = 0; c < in_channels_; ++c) {
    for (std::int64_t i = 0; i < b.images; ++i) {
      const std::int64_t width = i + 1 < b.images ? step_ : 2 * across_ + 2;
      phase_rows(rows_, columns_, 0, 0, x + ((b.image + i) * in_channels_ + c) * area, 2 * b.row, reads,
                 width, pitch_, plane + i * step_);
    }
    for (std::int64_t row = 0; row < b.rows; ++row) {
      job.in = plane + 2 * row * pitch_;
      job.out = points + c * stride() + row * tiles_;
      ops_.winograd_input(4, job);
    }
  }
}

void DenseTiles::run(const float* x, const float* packed, const float* bias, float* y,
                     std::int64_t first, std::int64_t last) const {
  const std::int64_t width = columns_.out, area = rows_.out * width, half = ops_.width / 2;
  const auto plane = memory(plane_floats()), points = memory(kPoints * point_floats());
  const std::int64_t held_pitch = 2 * tiles_, held_area = 2 * strip_ * held_pitch;
  const auto held = memory(side_ > 1 ? out_channels_ * held_area : 0);
  std::fill_n(plane.get(), plane_floats(), 0.0f);
  std::fill_n(points.get(), kPoints * point_floats(), 0.0f);
  std::vector<float> biases(static_cast<std::size_t>(blocks() * ops_.winograd_outputs(4)));
  if (bias != nullptr) std::copy_n(bias, out_channels_, biases.begin());
  WinogradSums job;
  job.in_stride = stride(), job.inputs = in_channels_, job.outputs = out_channels_;
  job.weights = packed, job.bias = biases.data();
  job.low = -std::numeric_limits<float>::infinity(), job.high = std::numeric_limits<float>::infinity();
  for (std::int64_t index = first; index < last; ++index) {
    const Band b = band(index);
    transform(x, b, plane.get(), points.get());
    float* const to = y + (b.image * out_channels_ * rows_.out + 2 * b.row) * width;
    job.out = side_ > 1 ? held.get() : to;
    job.out_stride = side_ > 1 ? held_area : area;
    job.out_pitch = side_ > 1 ? held_pitch : width;
    const std::int64_t columns = side_ > 1 ? held_pitch : width, tiles = b.rows * tiles_;
    const std::int64_t rows = std::min(2 * b.rows, rows_.out - 2 * b.row);
    for (std::int64_t t = 0; t < tiles; t += ops_.width) {
      job.in = points.get() + t;
      for (int h = 0; h < 2; ++h) {
        const std::int64_t tile = t + h * half, row = tile / tiles_ * 2, column = tile % tiles_ * 2;
        job.halves[h].to = row * job.out_pitch + column;
        job.halves[h].lanes = static_cast<int>(std::clamp<std::int64_t>(columns - column, 0, 2 * half));
        job.halves[h].rows = tile < tiles ? static_cast<int>(std::min<std::int64_t>(rows - row, 2)) : 0;
      }
      ops_.winograd_sums(4, job);
    }
    for (std::int64_t c = 0; side_ > 1 && c < out_channels_; ++c)
      for (std::int64_t i = 0; i < b.images; ++i)
        for (std::int64_t r = 0; r < rows; ++r)
          take(held.get() + c * held_area + r * held_pitch + i * step_, 1, width,
               to + (i * out_channels_ + c) * area + r * width);
  }
}

std::int64_t DenseTiles::pieces() const { return std::max<std::int64_t>(1, std::min(bands(), kMostPieces)); }

bool DenseTiles::slopes_fit() const { return slope_floats() <= kMostSlopes; }

std::int64_t DenseTiles::slope_floats() const { return kPoints * in_channels_ * lines(); }

void DenseTiles::slopes(const float* x, const float* g, float* sums, std::int64_t first,
                        std::int64_t last) const {
  const std::int64_t most = strip_ * side_ * across_, width = columns_.out;
  const auto plane = memory(plane_floats()), points = memory(kPoints * point_floats());
  const auto factors = memory(kPoints * most * lines());
  std::fill_n(plane.get(), plane_floats(), 0.0f);
  std::vector<std::int64_t> inputs, places;
  for (std::int64_t c = 0; c < in_channels_; ++c) inputs.push_back(c * stride());
  for (std::int64_t piece = first; piece < last; ++piece) {
    float* const to = sums + piece * slope_floats();
    std::fill_n(to, slope_floats(), 0.0f);
    for (std::int64_t index = bands() * piece / pieces(); index < bands() * (piece + 1) / pieces(); ++index) {
      const Band b = band(index);
      transform(x, b, plane.get(), points.get());
      places.clear();
      WinogradSlopes tiles;
      tiles.columns = width, tiles.lines = lines(), tiles.tiles = across_, tiles.out_stride = most * lines();
      for (std::int64_t row = 0; row < b.rows; ++row) {
        for (std::int64_t i = 0; i < b.images; ++i) {
          const std::int64_t y = 2 * (b.row + row);
          tiles.rows = rows_.out - y;
          tiles.g = g + ((b.image + i) * rows_.out + y) * width * lines();
          tiles.out = factors.get() + static_cast<std::int64_t>(places.size()) * lines();
          ops_.winograd_slopes(tiles);
          for (std::int64_t t = 0; t < across_; ++t) places.push_back(row * tiles_ + i * step_ / 2 + t);
        }
      }
      LineSums job;
      job.outer = inputs.data(), job.outers = in_channels_, job.lines = lines();
      job.inner = places.data(), job.inners = static_cast<std::int64_t>(places.size());
      for (int p = 0; p < kPoints; ++p) {
        job.in = points.get() + p * point_floats();
        job.factors = factors.get() + p * most * lines();
        job.sums = to + p * in_channels_ * lines();
        ops_.line_sums(job);
      }
    }
  }
}

void DenseTiles::weight_gradient(const float* sums, float* dw, std::int64_t first,
                                 std::int64_t last) const {
  const auto total = memory(kPoints * lines()), taps = memory(kTaps * lines());
  for (std::int64_t c = first; c < last; ++c) {
    for (int p = 0; p < kPoints; ++p) {
      float* const to = total.get() + p * lines();
      const float* from = sums + (p * in_channels_ + c) * lines();
      std::copy_n(from, lines(), to);
      for (std::int64_t piece = 1; piece < pieces(); ++piece) {
        from += slope_floats();
        for (std::int64_t i = 0; i < lines(); ++i) to[i] += from[i];
      }
    }
    transform_slopes(total.get(), lines(), lines(), taps.get());
    ops_.transpose(taps.get(), lines(), kTaps, out_channels_, dw + c * kTaps, in_channels_ * kTaps);
  }
}

}  // namespace onnxprune::kernels
