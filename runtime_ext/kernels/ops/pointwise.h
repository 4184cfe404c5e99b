// Pointwise, window and reduction primitives of OpsTable.
#pragma once

#include "activation.h"
#include "table.h"

namespace {

using onnxprune::kernels::Binary;
using onnxprune::kernels::ScatterRun;
constexpr int kW = Simd::kWidth;

// body(offset, load, store) over count floats; whole vectors, then one partial one.
template <class Body>
inline void for_vectors(std::int64_t count, Body&& body) {
  std::int64_t i = 0;
  for (; i + kW <= count; i += kW) body(i, kW);
  if (i < count) body(i, static_cast<int>(count - i));
}

inline Reg read(const float* p, int lanes) {
  return lanes == kW ? Simd::load(p) : Simd::load_some(p, lanes);
}

inline void write(float* p, Reg v, int lanes, const std::uint16_t* mask, std::int64_t i) {
  if (mask != nullptr) v = Simd::keep_lanes(v, mask[i / kW]);
  if (lanes == kW) {
    Simd::store(p, v);
  } else {
    Simd::store_some(p, v, lanes);
  }
}

float multiply_adds(std::int64_t count) {
  Reg sums[12];
  for (Reg& s : sums) s = splat(0.5f);
  const Reg factor = splat(0.5f), term = splat(0.25f);
  for (std::int64_t i = 0; i < count; i += 12) {
#pragma GCC unroll 12
    for (Reg& s : sums) s = Simd::fma(s, factor, term);
  }
  for (int i = 1; i < 12; ++i) sums[0] = Simd::add(sums[0], sums[i]);
  return Simd::sum(sums[0]);
}

void finish(const Epilogue& epilogue, float* row, const float* residual, const std::uint16_t* mask,
            std::int64_t count) {
  const bool before = residual != nullptr && epilogue.residual == Residual::before_activation;
  const bool after = residual != nullptr && epilogue.residual == Residual::after_activation;
  with_activation(epilogue, [&](auto activation) {
    for_vectors(count, [&](std::int64_t i, int lanes) {
      Reg v = read(row + i, lanes);
      if (before) v = Simd::add(v, read(residual + i, lanes));
      v = activation.apply(v);
      if (after) v = Simd::add(v, read(residual + i, lanes));
      write(row + i, v, lanes, mask, i);
    });
  });
}

void affine(const Epilogue& epilogue, const float* a, float scale, float shift, float* out,
            const std::uint16_t* mask, std::int64_t count) {
  with_activation(epilogue, [&](auto activation) {
    for_vectors(count, [&](std::int64_t i, int lanes) {
      const Reg v = Simd::fma(read(a + i, lanes), splat(scale), splat(shift));
      write(out + i, activation.apply(v), lanes, mask, i);
    });
  });
}

void binary(Binary op, const Epilogue& epilogue, const float* a, const float* b, float* out,
            const std::uint16_t* mask, std::int64_t count) {
  with_activation(epilogue, [&](auto activation) {
    for_vectors(count, [&](std::int64_t i, int lanes) {
      const Reg x = read(a + i, lanes), y = read(b + i, lanes);
      const Reg v = op == Binary::add        ? Simd::add(x, y)
                    : op == Binary::subtract ? Simd::sub(x, y)
                                             : Simd::mul(x, y);
      write(out + i, activation.apply(v), lanes, mask, i);
    });
  });
}

void window_max(const float* in, const std::int64_t* offsets, std::int64_t taps, float* out,
                std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, int lanes) {
    Reg best = read(in + offsets[0] + i, lanes);
    for (std::int64_t t = 1; t < taps; ++t)
      best = Simd::max(best, read(in + offsets[t] + i, lanes));
    write(out + i, best, lanes, nullptr, i);
  });
}

void window_sum(const float* in, const std::int64_t* offsets, std::int64_t taps, float scale,
                float* out, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, int lanes) {
    Reg total = Simd::zero();
    for (std::int64_t t = 0; t < taps; ++t)
      total = Simd::add(total, read(in + offsets[t] + i, lanes));
    write(out + i, Simd::mul(total, splat(scale)), lanes, nullptr, i);
  });
}

void pack(const float* in, const std::int32_t* offsets, std::int64_t columns, int vectors,
          float* to, std::int64_t column_stride, std::int64_t vector_stride) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const float* from = in + offsets[c];
    float* target = to + c * column_stride;
    for (int v = 0; v < vectors; ++v)
      Simd::store(target + v * vector_stride, Simd::load(from + v * kW));
  }
}

void every_second(const float* from, float* to, std::int64_t count) {
  std::int64_t i = 0;
  // The second load of the last whole vector would reach one float too far.
  for (; i + kW + 1 <= count; i += kW) {
    Simd::store(to + i, Simd::even_lanes(Simd::load(from + 2 * i), Simd::load(from + 2 * i + kW)));
  }
  while (i < count) {
    const int lanes = static_cast<int>(count - i < kW ? count - i : kW), floats = 2 * lanes - 1;
    const float* at = from + 2 * i;
    const Reg low = read(at, floats < kW ? floats : kW);
    const Reg high = floats > kW ? Simd::load_some(at + kW, floats - kW) : Simd::zero();
    write(to + i, Simd::even_lanes(low, high), lanes, nullptr, 0);
    i += lanes;
  }
}

// The even floats to one place, the odd ones to another.
inline void split_floats(const float* from, std::int64_t evens, std::int64_t odds, float* even,
                         float* odd) {
  const auto whole = [&](std::int64_t i) {
    const Reg low = Simd::load(from + 2 * i), high = Simd::load(from + 2 * i + kW);
    Simd::store(even + i, Simd::even_lanes(low, high));
    Simd::store(odd + i, Simd::odd_lanes(low, high));
  };
  if (odds >= kW) {  // the last whole vectors overlap those before them
    for (std::int64_t i = 0; i + kW < odds; i += kW) whole(i);
    whole(odds - kW);
    if (evens > odds) even[odds] = from[2 * odds];
    return;
  }
  for (std::int64_t i = 0; i < evens; i += kW) {
    const std::int64_t floats = evens + odds - 2 * i;
    Reg low, high;
    if (floats >= 2 * kW) {
      low = Simd::load(from + 2 * i);
      high = Simd::load(from + 2 * i + kW);
    } else {
      low = read(from + 2 * i, static_cast<int>(floats < kW ? floats : kW));
      high = floats > kW ? Simd::load_some(from + 2 * i + kW, static_cast<int>(floats - kW))
                         : Simd::zero();
    }
    const std::int64_t a = evens - i, b = odds - i;
    write(even + i, Simd::even_lanes(low, high), static_cast<int>(a < kW ? a : kW), nullptr, 0);
    if (b > 0)
      write(odd + i, Simd::odd_lanes(low, high), static_cast<int>(b < kW ? b : kW), nullptr, 0);
  }
}

void scatter(const ScatterRun* runs, std::int64_t count, const float* tile, float* plane) {
  for (const ScatterRun* run = runs; run != runs + count; ++run) {
    const float* from = tile + run->from;
    float* to = plane + run->to;
    if (run->step == 1) {
      for_vectors(run->pixels, [&](std::int64_t i, int lanes) {
        write(to + i, read(from + i, lanes), lanes, nullptr, 0);
      });
    } else if (run->step == 2 && run->others > 0) {
      split_floats(from, run->pixels, run->others, to, plane + run->other);
    } else if (run->step == 2) {
      every_second(from, to, run->pixels);
    } else {
      for (std::int64_t i = 0; i < run->pixels; ++i) to[i] = from[i * run->step];
    }
  }
}

float sum(const float* row, std::int64_t count) {
  Reg total = Simd::zero();
  for_vectors(count,
              [&](std::int64_t i, int lanes) { total = Simd::add(total, read(row + i, lanes)); });
  return Simd::sum(total);
}

float largest(const float* row, std::int64_t count) {
  float best = row[0];
  std::int64_t i = 0;
  if (count >= kW) {
    Reg top = Simd::load(row);
    for (i = kW; i + kW <= count; i += kW) top = Simd::max(top, Simd::load(row + i));
    best = Simd::largest(top);
  }
  for (; i < count; ++i) best = row[i] > best ? row[i] : best;
  return best;
}

}  // namespace
