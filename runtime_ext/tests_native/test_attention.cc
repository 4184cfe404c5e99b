// Attention, and what it computes before: sums of products of planes, and planes put behind a cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "harness.h"
#include "planes.h"
#include "reference.h"

using namespace onnxprune::kernels;
using testing::only_pixels_differ;
using testing::Random;
using testing::random_floats;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(attention) {
  Random random(13);
  for (int i = 0; i < 200; ++i) {
    Attention a;
    a.heads = random.between(1, 4);
    a.dim = random.between(1, 20);
    a.value_dim = random.between(1, 20);
    a.q_tokens = random.between(1, 90);
    a.k_tokens = i == 7 ? 1100 : random.between(1, 90);
    a.batches = random.between(1, 3);
    a.scale = 0.3f;
    const bool shared = random.below(2) != 0;  // all heads of queries on one of keys
    const int mask = random.below(4);          // none, by key, by element, by element and head
    const int numbers = random.below(4);       // of the mask: floats, bytes that show or hide, whole numbers
    a.mask_of = static_cast<Attention::MaskOf>(numbers);
    a.causal = random.below(3) == 0;
    if (a.causal) a.fill = -kInfinity;
    a.past = random.below(2) != 0 ? random.between(0, 20) : 0;
    a.empty = static_cast<Attention::Empty>(random.below(3));
    // Keys and values as a cache keeps them: [batch][head][token][feature].
    const bool cache = random.below(3) == 0;
    if (cache && random.below(2) != 0) a.q_tokens = random.between(1, 5);
    const PlaneLayout ql = make_layout(1, a.batches * a.q_tokens),
                      kl = make_layout(1, a.batches * a.k_tokens);
    const int q_features = a.heads * a.dim + 2, k_features = (shared ? 1 : a.heads) * a.dim,
              v_features = (shared ? 1 : a.heads) * a.value_dim;
    auto fill = [&](const PlaneLayout& l, int features) {
      return random_floats(static_cast<std::size_t>(l.buffer_floats(features)) + 16, &random);
    };
    const std::vector<float> q = fill(ql, q_features), k = fill(kl, k_features),
                             v = fill(kl, v_features);
    // Features of one head lie `heads` apart in q, next to each other elsewhere.
    std::vector<std::int32_t> q_head, k_head, v_head;
    for (int h = 0; h < a.heads; ++h) {
      q_head.push_back(2 + h);
      k_head.push_back(shared ? 0 : cache ? h : h * a.dim);
      v_head.push_back(shared ? 0 : cache ? h : h * a.value_dim);
    }
    a.q = {q.data(), ql.lead, q_head.data(), a.q_tokens, ql.plane_stride, 1, a.heads * ql.plane_stride};
    const auto keys = [&](const std::vector<float>& data, const std::vector<std::int32_t>& heads, int features, int dim) {
      if (!cache) return Attention::Operand{data.data(), kl.lead, heads.data(), a.k_tokens, kl.plane_stride, 1, kl.plane_stride};
      const std::int64_t head = std::int64_t{a.k_tokens} * dim;
      return Attention::Operand{data.data(), 0, heads.data(), head * (features / dim), head, dim, 1};
    };
    a.k = keys(k, k_head, k_features, a.dim);
    a.v = keys(v, v_head, v_features, a.value_dim);
    const auto number = [](const Attention::Operand& o, int batch, int h, int t, int d) {
      return static_cast<double>(o.data[o.first + batch * o.batch + o.head[h] * o.head_stride + t * o.token + d * o.feature]);
    };
    std::vector<float> masks = random_floats(
        static_cast<std::size_t>(a.batches) * a.heads * a.q_tokens * a.k_tokens, &random);
    if (mask > 0) {
      a.mask = masks.data();
      a.mask_k = 1;
      a.mask_batch = mask == 1 ? a.k_tokens : 0;
      if (mask > 1) a.mask_q = a.k_tokens;
      if (mask == 3) a.mask_head = static_cast<std::int64_t>(a.q_tokens) * a.k_tokens;
      a.mask_scale = 0.5f;
      a.fill = a.empty == Attention::Empty::keep && !a.causal ? -3.0f : -kInfinity;
      a.denied = random.below(2) != 0 ? -kInfinity : -2.0f;
      const bool least = a.empty == Attention::Empty::zero_masked;
      for (std::size_t m = 0; m < masks.size(); m += 5)
        masks[m] = least && m % 2 != 0 ? std::numeric_limits<float>::lowest() : -kInfinity;
      // Some queries see nothing.
      for (std::size_t row = 0; row + static_cast<std::size_t>(a.k_tokens) <= masks.size(); row += 3 * static_cast<std::size_t>(a.k_tokens))
        std::fill_n(masks.begin() + static_cast<std::ptrdiff_t>(row), a.k_tokens, -kInfinity);
    }
    // The same in other numbers: what is hidden, and 0 where it is shown.
    std::vector<std::uint8_t> bytes;
    std::vector<std::int32_t> whole;
    for (float& m : masks) {
      const bool shown = m >= -1.0f;
      bytes.push_back(shown == (a.mask_of == Attention::MaskOf::shown_bytes) ? 1 : 0);
      whole.push_back(shown ? random.between(1, 3) : -random.between(0, 2));
      if (mask > 0 && numbers > 0) m = shown ? 0.0f : a.denied / a.mask_scale;
    }
    if (mask > 0 && numbers > 0) a.mask = numbers == 3 ? static_cast<const void*>(whole.data()) : bytes.data();
    const int features = a.heads * a.value_dim;
    std::vector<float> out(static_cast<std::size_t>(ql.buffer_floats(features)), 9.0f);
    a.layout = ql;
    a.out = out.data() + ql.lead;
    std::vector<char> scratch(a.scratch_bytes() + 64);
    char* aligned = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64);
    const std::int64_t middle = a.items() / 2;
    a.run(middle, a.items(), aligned);
    a.run(0, middle, aligned);

    bool right = true;
    for (int b = 0; b < a.batches; ++b) {
      for (int h = 0; h < a.heads; ++h) {
        for (int t = 0; t < a.q_tokens; ++t) {
          std::vector<double> score(static_cast<std::size_t>(a.k_tokens));
          double total = 0.0;
          bool nothing = true;
          for (int s = 0; s < a.k_tokens; ++s) {
            double sum = 0.0;
            for (int d = 0; d < a.dim; ++d)
              sum += number(a.q, b, h, t, d) * number(a.k, b, h, s, d);
            sum *= 0.3f;
            if (mask > 0) {
              const float m = masks[b * a.mask_batch + h * a.mask_head + t * a.mask_q + s];
              sum = m <= std::numeric_limits<float>::lowest() ? a.fill : sum + 0.5 * m;
            }
            if (a.causal && s > t + a.past) sum = -kInfinity;
            nothing = nothing && sum == -kInfinity;
            total += score[s] = std::exp(sum);
          }
          for (int d = 0; d < a.value_dim; ++d) {
            double want = 0.0;
            for (int s = 0; s < a.k_tokens; ++s)
              want += score[s] / total * number(a.v, b, h, s, d);
            const double got =
                a.out[(h * a.value_dim + d) * ql.plane_stride + b * a.q_tokens + t];
            const bool zero = nothing && a.empty != Attention::Empty::keep;
            right = right && (nothing && !zero ? std::isnan(got) : std::fabs(got - (zero ? 0.0 : want)) < 1e-5);
          }
        }
      }
    }
    CHECK(right);
    CHECK(only_pixels_differ(ql, std::vector<float>(out.begin(), out.begin() + ql.plane_stride)));
  }
}

TEST(sums_of_products) {
  Random random(17);
  for (int i = 0; i < 200; ++i) {
    const int batches = random.between(1, 3), length = random.below(3) == 0 ? 1 : random.between(1, 40);
    const int planes = random.between(1, 40), inputs = random.between(1, 30);
    PlaneSums job;
    job.tokens = batches * length;
    const bool one = job.tokens == 1;
    const auto layout_of = [&](int tokens) { return tokens == 1 ? vector_layout() : make_layout(1, tokens); };
    job.layout = layout_of(static_cast<int>(job.tokens));
    // A value with all tokens, one with those of a sequence, one with a single one.
    std::vector<std::vector<float>> data;
    std::vector<PlaneSums::Operand> operands;
    for (int tokens : {batches * length, length, 1}) {
      const PlaneLayout l = layout_of(tokens);
      data.push_back(random_floats(static_cast<std::size_t>(l.buffer_floats(inputs)) + 64, &random));
      operands.push_back({nullptr, l.plane_stride, tokens, l.lead});
    }
    for (std::size_t k = 0; k < data.size(); ++k) operands[k].data = data[k].data();
    job.starts = {0};
    const int pattern = random.below(3);  // runs, pairs, or anything
    for (int p = 0; p < planes; ++p) {
      const int terms = pattern == 2 ? random.between(1, 8) : 2;
      for (int k = 0; k < terms; ++k) {
        PlaneSums::Term t;
        const int plane = pattern == 0 ? (p + 3 * k) % inputs : pattern == 1 ? (2 * p + k) % inputs : random.below(inputs);
        t.a_plane = plane;
        t.b = pattern == 2 ? random.between(-1, 2) : 1;
        t.b_plane = pattern == 2 ? random.below(inputs) : p % inputs;
        t.factor = pattern == 2 ? random.symmetric() : k == 0 ? -1.0f : 1.0f;
        job.terms.push_back(t);
      }
      job.starts.push_back(static_cast<std::int32_t>(job.terms.size()));
    }
    job.find_runs();
    CHECK(job.items() == (one ? static_cast<std::int64_t>(job.runs.size()) : planes));
    std::vector<float> out(static_cast<std::size_t>(job.layout.buffer_floats(planes)) + 64, 9.0f);
    const std::int64_t middle = job.items() / 2;
    job.run(operands.data(), out.data(), middle, job.items());
    job.run(operands.data(), out.data(), 0, middle);
    bool right = true;
    for (int p = 0; p < planes; ++p) {
      for (std::int64_t t = 0; t < job.tokens; ++t) {
        double want = 0;
        for (std::int32_t k = job.starts[p]; k < job.starts[p + 1]; ++k) {
          const PlaneSums::Term& term = job.terms[k];
          const auto number = [&](int o, int plane) {
            const PlaneSums::Operand& x = operands[o];
            return static_cast<double>(x.data[x.lead + plane * x.stride + t % x.tokens]);
          };
          want += term.factor * number(term.a, term.a_plane) * (term.b < 0 ? 1.0 : number(term.b, term.b_plane));
        }
        right = right && std::fabs(out[job.layout.lead + p * job.layout.plane_stride + t] - want) < 1e-5;
      }
    }
    CHECK(right);
    if (!one) CHECK(only_pixels_differ(job.layout, std::vector<float>(out.begin(), out.begin() + job.layout.plane_stride)));
  }
}

TEST(planes_spread_to_a_cache) {
  Random random(19);
  for (int i = 0; i < 120; ++i) {
    const int batches = random.between(1, 3), length = random.between(1, 40), heads = random.between(1, 4),
              dim = random.between(1, 40), before = random.between(0, 9), inputs = heads * dim + random.below(5);
    const PlaneLayout l = batches * length == 1 ? vector_layout() : make_layout(1, batches * length);
    const std::vector<float> planes = random_floats(static_cast<std::size_t>(l.buffer_floats(inputs)) + 64, &random);
    PlaneSpread job;
    job.batches = batches;
    job.tokens = length;
    job.width = dim;
    job.plane_stride = l.plane_stride;
    const std::int64_t all = before + length, head = all * dim;
    const int order = random.below(3);  // [b][h][t][d], [b][h][d][t], [b][t][h][d]
    job.batch_stride = heads * head;
    job.token_stride = order == 0 ? dim : order == 1 ? 1 : heads * dim;
    job.feature_stride = order == 1 ? all : 1;
    const bool next = random.below(2) != 0;
    for (int h = 0; h < heads; ++h) {
      job.row_offsets.push_back(order == 2 ? h * dim : h * head);
      for (int d = 0; d < dim; ++d) job.features.push_back(next ? h * dim + d : random.below(inputs));
    }
    std::vector<float> out(static_cast<std::size_t>(batches * heads * head), 9.0f);
    job.run(planes.data() + l.lead, out.data() + before * job.token_stride, 0, heads);
    std::size_t written = 0;
    bool right = true;
    for (int b = 0; b < batches; ++b)
      for (int h = 0; h < heads; ++h)
        for (int t = 0; t < length; ++t)
          for (int d = 0; d < dim; ++d) {
            const float want = planes[l.lead + job.features[h * dim + d] * l.plane_stride + b * length + t];
            float& got = out[b * job.batch_stride + job.row_offsets[h] + (before + t) * job.token_stride + d * job.feature_stride];
            right = right && got == want;
            got = 9.0f;
            ++written;
          }
    for (float x : out) right = right && x == 9.0f;  // nothing else
    CHECK(right && written == static_cast<std::size_t>(batches) * heads * length * dim);
  }
}
