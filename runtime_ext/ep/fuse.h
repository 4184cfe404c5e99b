// Operations of a program made fewer, or smaller, before weights are packed for good.
#pragma once

#include "ep/program.h"

namespace onnxprune::ep {

// Folds affine ops, activations and residual additions into the weighted sums before them. Weights
// must not be packed yet.
void fuse(Program* program);

// A convolution whose output is only read by windows of one pixel that skip others (the strided 1x1
// convolutions at the end of a ResNet's stage) takes their stride over and computes what is read, and so
// does the one before it. A residual is brought to that size first. Weights are to be packed again.
void skip_unread(Program* program);

}  // namespace onnxprune::ep
