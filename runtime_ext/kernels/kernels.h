// Sparse and dense kernels of onnxprune: plain pointers and strides, no onnxruntime, no exceptions.
//
//   layout.h   the padded planar layout, its planning, data movement in and out
//   weights.h  constant weights: packing from dense or sparse input, blobs
//   plan.h     weights x layouts x epilogue x instruction set -> something to run; cost estimates
//   recurrent.h  LSTM, GRU, RNN step by step
//   tune.h     choice among kernels by timing
//   ops.h      pooling, pointwise, normalisation, softmax, dense products for regions
//   cpu.h      instruction sets and their selection
//
// Use:  pack_* -> conv_need / make_layout -> make_plan -> import_nchw -> Plan::run -> export_nchw.
#pragma once

#include "cpu.h"
#include "layout.h"
#include "norms.h"
#include "ops.h"
#include "plan.h"
#include "status.h"
#include "tune.h"
#include "weights.h"
