// Included last by ops/<isa>.cc: the table of this instruction set.
#pragma once

#include "cells.h"
#include "dense.h"
#include "kept.h"
#include "norms.h"
#include "slopes.h"
#include "taps.h"
#include "tiles.h"
#include "transformer.h"
#include "transpose.h"
#include "vector.h"
#include "window.h"
#include "winograd.h"

namespace {

inline onnxprune::kernels::OpsTable filled_table() {
  onnxprune::kernels::OpsTable t;
  t.width = kW;
  t.multiply_adds = multiply_adds;
  t.finish = finish;
  t.affine = affine;
  t.binary = binary;
  t.quantised_sum = quantised_sum;
  t.window_max = window_max;
  t.window_sum = window_sum;
  t.pool_row = pool_row;
  t.window_sums = window_sums;
  t.interleave = interleave;
  t.tap_sums = tap_sums;
  t.tap_dots = tap_dots;
  t.dense_rows = kDenseRows;
  t.dense_sums = dense_sums;
  t.line_sums = line_sums;
  t.clip_gradient = clip_gradient;
  t.sigmoid_gradient = sigmoid_gradient;
  t.silu_gradient = silu_gradient;
  t.squared_gap = squared_gap;
  t.winograd_outputs = winograd_outputs;
  t.winograd_input = winograd_input;
  t.winograd_sums = winograd_sums;
  t.winograd_slopes = winograd_slopes;
  t.pack = pack;
  t.transpose = transpose;
  t.scatter = scatter;
  t.products = products;
  t.sum = sum;
  t.largest = largest;
  t.response_norm = response_norm;
  t.squared_deviations = squared_deviations;
  t.layer_norm = layer_norm;
  t.softmax_row = softmax_row;
  t.softmax_columns = softmax_columns;
  t.matmul = matmul;
  t.sparse_dot_narrow = sparse_dot<std::uint16_t>;
  t.sparse_dot_wide = sparse_dot<std::int32_t>;
  t.dense_dot = dense_dot;
  t.block_dot = block_dot;
  t.tile_group = tile_group;
  t.finite = finite;
  t.lstm_step = lstm_step;
  t.gru_step = gru_step;
  t.gru_gates = gru_gates;
  t.gru_candidate = gru_candidate;
  t.rnn_step = rnn_step;
  t.kept_narrow = kept<std::uint16_t>;
  t.kept_wide = kept<std::uint32_t>;
  return t;
}

}  // namespace
