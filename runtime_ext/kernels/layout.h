// The planar activation layout every kernel works on.
//
// A tensor [N, C, H, W] is kept as N*C *planes* of `plane_stride` floats. Inside a plane the rows
// follow each other with `pitch` floats from row to row and all padding that a consumer needs is
// there as zeros: rows above and below, and columns between the rows that serve the right edge of
// one row and the left edge of the next. Therefore every (channel, ky, kx) of a convolution is one
// constant offset from the output position, and a convolution is a sparse-matrix product over one
// flat vector of pixels, q = y * pitch + x.
//
// A convolution of stride (sy, sx) reads *phase planes*: pixel (y, x) of channel c lies in phase
// (y % sy) * sx + x % sx, at row y / sy, column x / sx. With stride 1 there is one phase and the
// layout is the plain one. Only the phases of `phase_mask` are stored.
//
// A depth-wise convolution of a common kind walks its planes row by row instead (`walks_planes`):
// it reads plain planes at any stride.
//
// [tokens, features] matrices are the case H = 1, W = tokens, C = features ([feature][token]).
// A single vector (tokens = 1) can stay contiguous: `vector_layout`.
//
// A plane always starts on a cache line when the buffer does, the pixel (0, 0) of each phase too,
// and the number of cache lines per plane is odd, so that equal positions of different channels
// fall into different cache sets. Vector kernels may read, and write zeros, up to the end of a
// plane; they never touch another plane or anything outside `buffer_floats`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.h"

namespace onnxprune::kernels {

constexpr int kLane = 16;         // floats per cache line; granularity of all padding here
constexpr int kBufferAlign = 64;  // bytes; alignment wanted (not required) for plane buffers

// A convolution with constant weight [out_channels][in_channels / groups][kernel_h][kernel_w].
// 1-D convolution: height 1. MatMul / Gemm: `matmul_geometry`.
struct ConvGeometry {
  std::int32_t in_channels = 0, out_channels = 0, groups = 1;
  std::int32_t kernel_h = 1, kernel_w = 1;
  std::int32_t stride_h = 1, stride_w = 1;
  std::int32_t dilation_h = 1, dilation_w = 1;
  std::int32_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;  // >= 0

  std::int32_t taps() const { return kernel_h * kernel_w; }
  // Columns of the weight matrix: (in_channels / groups) * taps.
  std::int64_t columns() const { return static_cast<std::int64_t>(in_channels / groups) * taps(); }
  // Output size for an input size; <= 0 when the kernel does not fit.
  std::int32_t out_height(std::int32_t height) const;
  std::int32_t out_width(std::int32_t width) const;
};

// y[tokens, out] = x[tokens, in] * W with W given as [out][in].
ConvGeometry matmul_geometry(std::int32_t in_features, std::int32_t out_features);

// Checks signs, divisibility by groups and limits (2^31 elements); what `pack` and `plan` call
// first.
Status check_geometry(const ConvGeometry& geometry);

// Zeros that consumers need around the pixels of each phase (in rows / columns of the phase), the
// least row pitch, and the phases they read. Merge the needs of all consumers of a tensor, and of
// all tensors that must share a pitch (see `flat_compatible`).
struct PadNeed {
  std::int32_t top = 0, left = 0, bottom = 0, right = 0;
  std::int32_t min_pitch = 1;
  std::int32_t pitch = 0;  // exactly this pitch (to match another tensor); 0 = free
  std::int32_t stride_h = 1, stride_w = 1;  // phase grid; must agree between merged needs
  std::uint64_t phase_mask = 1;             // used when stride_h * stride_w <= 64, else all phases
};

// Whether the convolution is depth-wise, one output a channel, with a square window of 3 or 5 and a
// stride of 1 or 2, which has a kernel of its own that reads plain planes.
bool walks_planes(const ConvGeometry& geometry);

// What a convolution needs of its input of `height` x `width`. Pooling windows need the same as a
// convolution of the same geometry.
PadNeed conv_need(const ConvGeometry& geometry, std::int32_t height, std::int32_t width);
// The larger of both; false (and `into` untouched) when the phase grids or the wanted pitches
// differ.
bool merge_need(PadNeed* into, const PadNeed& other);

struct PlaneLayout {
  std::int32_t height = 0, width = 0;       // pixels of the tensor
  std::int32_t stride_h = 1, stride_w = 1;  // phase grid, 1 x 1 for plain planes
  std::uint64_t phase_mask = 1;             // stored phases (all of them when the grid exceeds 64)
  std::int32_t rows = 0, cols = 0;          // pixels per phase: ceil(height / stride_h), ...
  std::int32_t top = 0, left = 0, bottom = 0, right = 0;  // zeros guaranteed around them
  std::int32_t pitch = 0;                                 // floats from row to row
  std::int64_t lead = 0;          // floats from the start of a phase to its pixel (0, 0)
  std::int64_t phase_stride = 0;  // floats from phase to phase
  std::int64_t plane_stride = 0;  // floats from channel to channel

  std::int32_t phases() const;                        // number of stored phases
  std::int32_t phase_slot(std::int32_t phase) const;  // place of a stored phase, -1 if not stored
  bool plain() const { return stride_h == 1 && stride_w == 1; }
  // Floats of one image of `channels` planes; images follow each other at this distance.
  std::int64_t image_floats(std::int32_t channels) const { return plane_stride * channels; }
  // Floats to allocate for a batch, including the slack that vector accesses may touch.
  std::int64_t buffer_floats(std::int32_t channels, std::int32_t images = 1) const;

  bool operator==(const PlaneLayout& other) const;
};

// A conforming layout: the pitch that costs the fewest vectors and, among those, aligns rows best
// (the same for every tensor of equal size and need). A wanted `need.pitch` below what the need
// requires is raised to it.
PlaneLayout make_layout(std::int32_t height, std::int32_t width, const PadNeed& need = {});
// Contiguous features of one token or pixel: plane_stride 1, height = width = 1. A plan whose input
// and output have this layout is a matrix-vector product (fully connected layer at batch 1..few).
PlaneLayout vector_layout();
// NCHW itself (no pads, pitch = width): only for height * width a multiple of 16, otherwise
// `unsupported`. Lets a 1x1 convolution run on an ONNX tensor without a copy.
Status natural_layout(std::int32_t height, std::int32_t width, PlaneLayout* layout);

// Whether `in` has the phases and the zeros that the convolution reads.
bool reads_within(const ConvGeometry& geometry, const PlaneLayout& in);
// True when, besides, the convolution is a product with a flat pixel vector and can write its output straight over the flat pixel vector:
// `out` is plain and has the pitch of `in`. Otherwise a plan writes through scratch (pixel by pixel
// copy into any layout: other pitch, phases), which costs a few per cent.
bool flat_compatible(const ConvGeometry& geometry, const PlaneLayout& in, const PlaneLayout& out);

// ---- moving data ------------------------------------------------------------------------------
// `planes` points to the first plane of the image, first/last is a half-open range of channels (or
// tokens), so that a caller can spread the work over threads. All zero pads of the touched planes
// are written too, so the destination need not be cleared first.

void import_nchw(const float* image, const PlaneLayout& to, float* planes, std::int32_t first,
                 std::int32_t last);
void export_nchw(const PlaneLayout& from, const float* planes, float* image, std::int32_t first,
                 std::int32_t last);
// Row-major [tokens, features] with `row_stride` floats between tokens <-> planes (H = 1,
// W = tokens). The range is over features and should start at multiples of 16.
void import_tokens(const float* tokens, std::int64_t row_stride, const PlaneLayout& to,
                   float* planes, std::int32_t first, std::int32_t last);
void export_tokens(const PlaneLayout& from, const float* planes, float* tokens,
                   std::int64_t row_stride, std::int32_t first, std::int32_t last);
// From any layout to any other of the same height and width: phase split, re-pitch.
void convert_planes(const PlaneLayout& from, const float* source, const PlaneLayout& to,
                    float* planes, std::int32_t first, std::int32_t last);
// Writes the zeros around the pixels (everything in the plane that is not a pixel).
void zero_borders(const PlaneLayout& layout, float* planes, std::int32_t first, std::int32_t last);

}  // namespace onnxprune::kernels
