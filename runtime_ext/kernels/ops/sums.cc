// Sums of products of planes, and planes written where a tensor of many axes has them.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "../ops.h"
#include "table.h"

namespace onnxprune::kernels {
namespace {

constexpr int kMostTerms = 8;  // at a time

// out[i] = sum over terms of factor * a[i * a_step] * b[i * b_step], for steps other than 1.
void strided(const PlaneSums::Term* terms, const float* const* a, const float* const* b, int count,
             const int* a_step, const int* b_step, float* out, std::int64_t planes) {
  for (std::int64_t i = 0; i < planes; ++i) {
    float sum = 0;
    for (int k = 0; k < count; ++k) {
      const float x = terms[k].factor * a[k][i * a_step[k]];
      sum += b[k] == nullptr ? x : x * b[k][i * b_step[k]];
    }
    out[i] = sum;
  }
}

}  // namespace

void PlaneSums::find_runs() {
  const std::int32_t planes = static_cast<std::int32_t>(starts.size()) - 1;
  // How far the term of one plane is from the same one of the plane before; false if it is another kind.
  const auto follows = [&](std::int32_t p, const Run& run) {
    const std::int32_t count = starts[p + 1] - starts[p];
    if (count != starts[p] - starts[p - 1]) return false;
    for (std::int32_t k = 0; k < count; ++k) {
      const Term &before = terms[starts[p - 1] + k], &now = terms[starts[p] + k];
      if (before.a != now.a || before.b != now.b || before.factor != now.factor) return false;
      if (p > run.first + 1) {
        const Term& early = terms[starts[p - 2] + k];
        if (now.a_plane - before.a_plane != before.a_plane - early.a_plane) return false;
        if (now.b_plane - before.b_plane != before.b_plane - early.b_plane) return false;
      }
    }
    return count <= kMostTerms;
  };
  runs.clear();
  for (std::int32_t p = 0; p < planes; ++p) {
    if (!runs.empty() && follows(p, runs.back())) runs.back().count++;
    else runs.push_back({p, 1});
  }
}

double PlaneSums::cycles() const {
  const double numbers = static_cast<double>(terms.size()) * static_cast<double>(tokens);
  return 0.25 * numbers + 10.0 * static_cast<double>(tokens == 1 ? runs.size() : terms.size());
}

void PlaneSums::run(const Operand* operands, float* out, std::int64_t first, std::int64_t last) const {
  const OpsTable& ops = ops_table(active_isa());
  const float *a[kMostTerms], *b[kMostTerms];
  float factors[kMostTerms];
  if (tokens == 1 && layout.plane_stride == 1) {
    int a_step[kMostTerms], b_step[kMostTerms];
    for (std::int64_t r = first; r < last; ++r) {
      const Run& run = runs[static_cast<std::size_t>(r)];
      const Term* t = terms.data() + starts[run.first];
      const int count = starts[run.first + 1] - starts[run.first];
      bool even = true;
      for (int k = 0; k < count; ++k) {
        const Term& next = run.count > 1 ? terms[starts[run.first + 1] + k] : t[k];
        a_step[k] = static_cast<int>((next.a_plane - t[k].a_plane) * operands[t[k].a].stride);
        b_step[k] = t[k].b < 0 ? 1 : static_cast<int>((next.b_plane - t[k].b_plane) * operands[t[k].b].stride);
        a[k] = operands[t[k].a].data + operands[t[k].a].lead + t[k].a_plane * operands[t[k].a].stride;
        b[k] = t[k].b < 0 ? nullptr : operands[t[k].b].data + operands[t[k].b].lead + t[k].b_plane * operands[t[k].b].stride;
        factors[k] = t[k].factor;
        even = even && a_step[k] == 1 && b_step[k] == 1;
      }
      if (even && run.count > 1) ops.products(a, b, factors, count, out + run.first, run.count);
      else strided(t, a, b, count, a_step, b_step, out + run.first, run.count);
    }
    return;
  }
  for (std::int64_t p = first; p < last; ++p) {
    float* const plane = out + p * layout.plane_stride;
    std::fill(plane, plane + layout.lead, 0.0f);
    std::fill(plane + layout.lead + tokens, plane + layout.plane_stride, 0.0f);
    const Term* t = terms.data() + starts[static_cast<std::size_t>(p)];
    const int count = starts[static_cast<std::size_t>(p) + 1] - starts[static_cast<std::size_t>(p)];
    // Pieces in which no operand starts anew.
    std::int64_t piece = tokens;
    for (int k = 0; k < count; ++k)
      if (t[k].b >= 0) piece = std::gcd(piece, operands[t[k].b].tokens);
    for (std::int64_t at = 0; at < tokens; at += piece) {
      for (int k = 0; k < count; ++k) {
        a[k] = operands[t[k].a].data + operands[t[k].a].lead + t[k].a_plane * operands[t[k].a].stride + at;
        const Operand* other = t[k].b < 0 ? nullptr : operands + t[k].b;
        b[k] = other == nullptr ? nullptr : other->data + other->lead + t[k].b_plane * other->stride + at % other->tokens;
        factors[k] = t[k].factor;
      }
      ops.products(a, b, factors, count, plane + layout.lead + at, piece);
    }
  }
}

void PlaneSpread::run(const float* planes, float* out, std::int64_t first, std::int64_t last) const {
  const OpsTable& ops = ops_table(active_isa());
  for (std::int64_t row = first; row < last; ++row) {
    const std::int32_t* const list = features.data() + row * width;
    float* const to = out + row_offsets[static_cast<std::size_t>(row)];
    bool run = feature_stride == 1;
    for (std::int64_t d = 1; d < width; ++d) run = run && list[d] == list[d - 1] + 1;
    for (std::int64_t n = 0; n < batches; ++n) {
      const float* const from = planes + n * tokens;
      float* const image = to + n * batch_stride;
      if (run) {
        ops.transpose(from + list[0] * plane_stride, plane_stride, width, tokens, image, token_stride);
        continue;
      }
      for (std::int64_t d = 0; d < width; ++d) {
        const float* const plane = from + list[d] * plane_stride;
        float* const line = image + d * feature_stride;
        if (token_stride == 1) std::memcpy(line, plane, static_cast<std::size_t>(tokens) * sizeof(float));
        else
          for (std::int64_t t = 0; t < tokens; ++t) line[t * token_stride] = plane[t];
      }
    }
  }
}

}  // namespace onnxprune::kernels
