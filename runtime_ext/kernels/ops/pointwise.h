// Pointwise, window and reduction primitives of OpsTable.
#pragma once

#include "activation.h"
#include "table.h"

namespace {

using onnxprune::kernels::Binary;
using onnxprune::kernels::QuantisedSum;
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
                    : op == Binary::multiply ? Simd::mul(x, y)
                                             : Simd::div(x, y);
      write(out + i, activation.apply(v), lanes, mask, i);
    });
  });
}

void products(const float* const* a, const float* const* b, const float* factors, int terms,
              float* out, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, int lanes) {
    Reg sum = Simd::zero();
    for (int k = 0; k < terms; ++k) {
      Reg x = Simd::mul(splat(factors[k]), read(a[k] + i, lanes));
      sum = b[k] == nullptr ? Simd::add(sum, x) : Simd::fma(x, read(b[k] + i, lanes), sum);
    }
    write(out + i, sum, lanes, nullptr, 0);
  });
}

void quantised_sum(const QuantisedSum& s, const float* a, const float* b, float* out,
                   const std::uint16_t* mask, std::int64_t count) {
  const auto each = [&](auto&& sum) {
    for_vectors(count, [&](std::int64_t i, int lanes) {
      const Reg v = sum(read(a + i, lanes), read(b + i, lanes));
      write(out + i, Simd::min(splat(s.high), Simd::max(splat(s.low), v)), lanes, mask, i);
    });
  };
  // Far from the limits rounding may meet anything; it is exact where it matters.
  const Reg most = splat(4096.0f), least = splat(-4096.0f);
  const auto rounded = [&](Reg v) { return Simd::round(Simd::min(most, Simd::max(least, v))); };
  if (s.step != 0.0f) {
    each([&](Reg x, Reg y) {
      Reg left = Simd::mul(x, splat(s.a_factor)), right = Simd::mul(y, splat(s.b_factor));
      Simd::hold(left);  // rounded by itself: no multiply-add
      Simd::hold(right);
      return rounded(Simd::div(Simd::add(left, right), splat(s.step)));
    });
    return;
  }
  each([&](Reg x, Reg y) {
    x = Simd::add(x, splat(s.a_zero));
    y = Simd::add(y, splat(s.b_zero));
    const Reg v = Simd::fma(x, splat(s.a_factor), Simd::fma(y, splat(s.b_factor), splat(s.shift)));
    return Simd::sub(rounded(v), splat(s.zero));
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

// Vector by vector of a run, and each for all rows: what masks and branches depend on stays the same.
void scatter(const ScatterRun* runs, std::int64_t count, const float* tile,
             std::int64_t tile_stride, float* planes, std::int64_t plane_stride,
             std::int64_t rows) {
  for (const ScatterRun* run = runs; run != runs + count; ++run) {
    const float* const from = tile + run->from;
    float* const to = planes + run->to;
    float* const other = planes + run->other;
    const auto each_row = [&](auto&& body) {
      for (std::int64_t r = 0; r < rows; ++r) body(r * tile_stride, r * plane_stride);
    };
    if (run->step == 1) {
      for_vectors(run->pixels, [&](std::int64_t i, int lanes) {
        each_row([&](std::int64_t a, std::int64_t b) {
          write(to + i + b, read(from + i + a, lanes), lanes, nullptr, 0);
        });
      });
    } else if (run->step == 2) {
      // The even floats to one place, the odd ones, if they are wanted, to another.
      const std::int64_t floats = 2 * run->pixels - (run->others < run->pixels ? 1 : 0);
      for_vectors(run->pixels, [&](std::int64_t i, int evens) {
        const std::int64_t left = floats - 2 * i;
        const int first = static_cast<int>(left < kW ? left : kW);
        const int second = static_cast<int>(left < 2 * kW ? left - first : kW);
        const std::int64_t odd = run->others - i;
        const int odds = static_cast<int>(odd < 0 ? 0 : odd < kW ? odd : kW);
        each_row([&](std::int64_t a, std::int64_t b) {
          const Reg low = read(from + 2 * i + a, first);
          const Reg high = second > 0 ? read(from + 2 * i + a + kW, second) : Simd::zero();
          write(to + i + b, Simd::even_lanes(low, high), evens, nullptr, 0);
          if (odds > 0) write(other + i + b, Simd::odd_lanes(low, high), odds, nullptr, 0);
        });
      });
    } else {
      each_row([&](std::int64_t a, std::int64_t b) {
        for (std::int64_t i = 0; i < run->pixels; ++i) to[i + b] = from[i * run->step + a];
      });
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
