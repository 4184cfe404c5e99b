// All that a geometry consists of, in the order in which it is written and hashed.
#pragma once

#include "layout.h"

namespace onnxprune::kernels {

inline constexpr std::int32_t ConvGeometry::* kGeometryFields[] = {
    &ConvGeometry::in_channels, &ConvGeometry::out_channels, &ConvGeometry::groups,
    &ConvGeometry::kernel_h,    &ConvGeometry::kernel_w,     &ConvGeometry::stride_h,
    &ConvGeometry::stride_w,    &ConvGeometry::dilation_h,   &ConvGeometry::dilation_w,
    &ConvGeometry::pad_top,     &ConvGeometry::pad_left,     &ConvGeometry::pad_bottom,
    &ConvGeometry::pad_right};

}  // namespace onnxprune::kernels
