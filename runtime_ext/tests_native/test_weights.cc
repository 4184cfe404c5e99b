// Packing from every input form, blobs and hostile blobs, matrix-vector plans.
#include <cstdint>
#include <cstring>
#include <utility>

#include "harness.h"
#include "reference.h"

namespace {

using namespace onnxprune::kernels;
using testing::Random;

std::vector<float> sparse_matrix(int rows, int columns, double density, int height,
                                 Random* random) {
  std::vector<float> w(static_cast<std::size_t>(rows) * columns, 0.0f);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      const bool keep = r % height == 0 ? random->uniform() < density
                                        : w[static_cast<std::size_t>(r - 1) * columns + c] != 0.0f;
      if (keep) w[static_cast<std::size_t>(r) * columns + c] = random->symmetric() + 2.0f;
    }
  }
  return w;
}

WeightsPtr packed(const ConvGeometry& g, const std::vector<float>& w, Storage storage) {
  PackOptions options;
  options.storage = storage;
  WeightsPtr weights;
  const Status status = pack_dense(g, DenseView{w.data(), g.columns(), 1}, options, &weights);
  CHECK_SAY(status.ok(), status.message);
  return weights;
}

void check_same(const Weights& weights, const std::vector<float>& w) {
  std::vector<float> back(w.size(), -1.0f);
  weights.to_dense(back.data());
  CHECK(back == w);
  std::int64_t nnz = 0;
  for (const float v : w) nnz += v != 0.0f;
  CHECK(weights.nnz() == nnz);
}

// The blobs that are mutated: all kinds, small enough that most bytes matter.
std::vector<std::vector<std::uint8_t>> sample_blobs() {
  Random random(31);
  std::vector<std::vector<std::uint8_t>> blobs;
  for (const Storage storage : {Storage::csr, Storage::block, Storage::nm, Storage::dense}) {
    for (const int kernel : {1, 3}) {
      ConvGeometry g;
      g.in_channels = 8;
      g.out_channels = 6;
      g.kernel_h = g.kernel_w = kernel;
      std::vector<float> w = sparse_matrix(6, static_cast<int>(g.columns()), 0.4,
                                           storage == Storage::block ? 4 : 1, &random);
      if (storage == Storage::nm) {
        for (std::size_t i = 0; i < w.size(); ++i)
          w[i] = i % 4 == 1 || (i % 4 == 3 && i % 8 != 7) ? 1.0f + static_cast<float>(i) : 0.0f;
      }
      const std::vector<float> bias(6, 0.25f);
      PackOptions options;
      options.storage = storage;
      if (storage == Storage::block) options.block_rows = 4;
      options.bias = kernel == 3 ? bias.data() : nullptr;
      WeightsPtr weights;
      const Status status = pack_dense(g, DenseView{w.data(), g.columns(), 1}, options, &weights);
      if (!CHECK_SAY(status.ok(), status.message)) continue;
      blobs.emplace_back(weights->blob_bytes());
      weights->write_blob(blobs.back().data());
    }
  }
  return blobs;
}

// Everything one can do with weights that were accepted; ends in a run.
void exercise(const Weights& weights) {
  const ConvGeometry& g = weights.geometry();
  const std::int64_t size = g.columns() * g.out_channels;
  if (size > 100000 || g.in_channels > 4096) return;  // a mutated but consistent giant
  std::vector<float> dense(static_cast<std::size_t>(size));
  weights.to_dense(dense.data());
  std::vector<std::uint8_t> again(weights.blob_bytes());
  weights.write_blob(again.data());
  const int height = 4 + g.kernel_h, width = 5 + g.kernel_w;
  const int oh = g.out_height(height), ow = g.out_width(width);
  if (oh < 1 || ow < 1 || oh > 4096 || ow > 4096 || g.stride_h > 64 || g.stride_w > 64) return;
  const PlaneLayout in = make_layout(height, width, conv_need(g, height, width)),
                    out = make_layout(oh, ow);
  if (in.buffer_floats(g.in_channels) > 1 << 22 || out.buffer_floats(g.out_channels) > 1 << 22)
    return;
  PlanPtr plan;
  if (!make_plan(weights, in, out, PlanOptions{}, &plan).ok()) return;
  std::vector<float> x(static_cast<std::size_t>(in.buffer_floats(g.in_channels)), 1.0f),
      y(static_cast<std::size_t>(out.buffer_floats(g.out_channels)));
  std::vector<float> scratch(plan->scratch_bytes() / 4 + 16);
  RunArgs args;
  args.in = x.data();
  args.out = y.data();
  plan->run(args, 0, plan->work_items(1), scratch.data());
}

}  // namespace

TEST(pack_all_inputs_agree) {
  Random random(20);
  for (int i = 0; i < 120; ++i) {
    const int rows = random.between(1, 40), columns = random.between(1, 60),
              height = random.below(2) ? 4 : 1;
    const ConvGeometry g = matmul_geometry(columns, rows);
    std::vector<float> w = sparse_matrix(rows, columns, random.uniform() * 0.7, height, &random);
    if (i % 10 == 0) std::fill(w.begin(), w.end(), 0.0f);
    for (const Storage storage :
         {Storage::automatic, Storage::csr, Storage::block, Storage::dense}) {
      check_same(*packed(g, w, storage), w);
    }
    // Transposed view: a MatMul constant [in, out].
    std::vector<float> transposed(w.size());
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c)
        transposed[static_cast<std::size_t>(c) * rows + r] =
            w[static_cast<std::size_t>(r) * columns + c];
    }
    WeightsPtr weights;
    CHECK(pack_dense(g, DenseView{transposed.data(), 1, rows}, PackOptions{}, &weights).ok());
    check_same(*weights, w);
    // CSR with every index width, columns permuted by a map.
    std::vector<std::int32_t> map(static_cast<std::size_t>(columns));
    for (int c = 0; c < columns; ++c) map[c] = (c * 7 + 3) % columns;
    bool permutation = true;
    std::vector<char> seen(static_cast<std::size_t>(columns));
    for (const int c : map) permutation = permutation && !seen[c] && (seen[c] = 1);
    for (const bool mapped : {false, true}) {
      if (mapped && !permutation) continue;
      std::vector<std::uint64_t> pointers{0}, indices;
      std::vector<float> values;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          const float v = w[static_cast<std::size_t>(r) * columns + (mapped ? map[c] : c)];
          if (v == 0.0f) continue;
          indices.push_back(static_cast<std::uint64_t>(c));
          values.push_back(v);
        }
        pointers.push_back(values.size());
      }
      PackOptions options;
      options.column_map = mapped ? map.data() : nullptr;
      const std::vector<std::uint32_t> narrow(pointers.begin(), pointers.end());
      const std::vector<std::uint8_t> bytes(indices.begin(), indices.end());
      const Status status = pack_csr(g, {narrow.data(), 4}, {bytes.data(), 1}, values.data(),
                                     static_cast<std::int64_t>(values.size()), options, &weights);
      if (CHECK_SAY(status.ok() || values.empty(), status.message) && status.ok())
        check_same(*weights, w);
      CHECK(pack_csr(g, {pointers.data(), 8}, {indices.data(), 8}, values.data(),
                     static_cast<std::int64_t>(values.size()), options, &weights)
                .ok() ||
            values.empty());
    }
    // Block CSR of random block size.
    const int br = random.between(1, 5), bc = random.between(1, 5);
    std::vector<std::uint32_t> pointers{0}, indices;
    std::vector<float> values;
    for (int r = 0; r < rows; r += br) {
      for (int c = 0; c < columns; c += bc) {
        std::vector<float> block;
        bool any = false;
        for (int y = 0; y < br; ++y) {
          for (int x = 0; x < bc; ++x) {
            const bool inside = r + y < rows && c + x < columns;
            block.push_back(inside ? w[static_cast<std::size_t>(r + y) * columns + c + x]
                                   : 99.0f);  // ignored
            any = any || (inside && block.back() != 0.0f);
          }
        }
        if (!any) continue;
        indices.push_back(static_cast<std::uint32_t>(c / bc));
        values.insert(values.end(), block.begin(), block.end());
      }
      pointers.push_back(static_cast<std::uint32_t>(indices.size()));
    }
    const Status status =
        pack_block_csr(g, br, bc, {pointers.data(), 4}, {indices.data(), 4}, values.data(),
                       static_cast<std::int64_t>(indices.size()), PackOptions{}, &weights);
    if (CHECK_SAY(status.ok() || values.empty(), status.message) && status.ok())
      check_same(*weights, w);
  }
}

TEST(pack_nm_input) {
  Random random(21);
  for (int i = 0; i < 60; ++i) {
    const int m = 4, n = random.between(1, 2), rows = random.between(1, 12),
              columns = random.between(1, 30);
    const int groups = (columns + m - 1) / m;
    const ConvGeometry g = matmul_geometry(columns, rows);
    std::vector<float> w(static_cast<std::size_t>(rows) * columns, 0.0f), values;
    const int words = (groups * n * 2 + 15) / 16;
    std::vector<std::uint8_t> positions(static_cast<std::size_t>(rows) * words * 2, 0);
    for (int r = 0; r < rows; ++r) {
      for (int s = 0; s < groups; ++s) {
        int p = random.below(m - n + 1);
        for (int k = 0; k < n; ++k, ++p) {
          const int c = s * m + p, slot = s * n + k;
          const float v = c < columns && random.below(4) != 0 ? random.symmetric() + 2.0f : 0.0f;
          if (c < columns) w[static_cast<std::size_t>(r) * columns + c] = v;
          values.push_back(v);
          positions[static_cast<std::size_t>(r) * words * 2 + slot * 2 / 8] |=
              static_cast<std::uint8_t>(p << (slot * 2 % 8));
        }
      }
    }
    for (const Storage storage : {Storage::automatic, Storage::nm, Storage::csr}) {
      PackOptions options;
      options.storage = storage;
      options.n = n;
      options.m = m;
      WeightsPtr weights;
      const Status status = pack_nm(g, n, m, values.data(), positions.data(), positions.size(), 2,
                                    2, options, &weights);
      if (CHECK_SAY(status.ok(), status.message)) check_same(*weights, w);
    }
    WeightsPtr weights;
    CHECK(pack_nm(g, n, m, values.data(), positions.data(), positions.size() - 1, 2, 2,
                  PackOptions{}, &weights)
              .code == Code::corrupt);
  }
}

TEST(pack_refuses_damage) {
  const ConvGeometry g = matmul_geometry(4, 2);
  const float values[] = {1, 2, 3};
  const auto csr = [&](std::vector<std::uint32_t> pointers, std::vector<std::uint32_t> indices) {
    WeightsPtr weights;
    return pack_csr(g, {pointers.data(), 4}, {indices.data(), 4}, values, 3, PackOptions{},
                    &weights)
        .code;
  };
  CHECK(csr({0, 1, 3}, {0, 1, 2}) == Code::ok);
  CHECK(csr({0, 1, 3}, {0, 1, 4}) == Code::corrupt);  // column out of range
  CHECK(csr({0, 1, 3}, {0, 0xffffffffu, 2}) == Code::corrupt);
  CHECK(csr({0, 1, 3}, {0, 1, 1}) == Code::corrupt);  // twice
  CHECK(csr({1, 1, 3}, {0, 1, 2}) == Code::corrupt);  // does not start at 0
  CHECK(csr({0, 2, 1}, {0, 1, 2}) == Code::corrupt);  // falls
  CHECK(csr({0, 1, 2}, {0, 1, 2}) == Code::corrupt);  // does not cover
  CHECK(csr({0, 1, 9}, {0, 1, 2}) == Code::corrupt);
  WeightsPtr weights;
  CHECK(pack_csr(g, {nullptr, 4}, {nullptr, 4}, values, 3, PackOptions{}, &weights).code ==
        Code::invalid_argument);
  ConvGeometry bad = g;
  bad.groups = 3;
  const float w[8] = {};
  CHECK(pack_dense(bad, DenseView{w, 4, 1}, PackOptions{}, &weights).code ==
        Code::invalid_argument);
  std::unique_ptr<WeightsBuilder> builder;
  CHECK(make_builder(g, PackOptions{}, &builder).ok());
  CHECK(builder->finish(&weights).code == Code::invalid_argument);  // rows missing
}

TEST(crop_a_window) {
  Random random(27);
  for (int i = 0; i < 60; ++i) {
    ConvGeometry g;
    g.groups = random.between(1, 3);
    g.in_channels = g.groups * random.between(1, 5);
    g.out_channels = g.groups * random.between(1, 9);
    g.kernel_h = random.between(1, 5);
    g.kernel_w = random.between(1, 5);
    const int columns = static_cast<int>(g.columns());
    const std::vector<float> w = sparse_matrix(g.out_channels, columns, random.uniform(), 1, &random);
    const WeightsPtr whole = packed(g, w, random.below(2) ? Storage::automatic : Storage::csr);
    ConvGeometry part = g;
    const int first_h = random.below(g.kernel_h), first_w = random.below(g.kernel_w);
    part.kernel_h = random.between(1, g.kernel_h - first_h);
    part.kernel_w = random.between(1, g.kernel_w - first_w);
    std::vector<float> want;
    for (int row = 0; row < g.out_channels; ++row) {
      for (int c = 0; c < g.in_channels / g.groups; ++c) {
        for (int y = 0; y < part.kernel_h; ++y) {
          for (int x = 0; x < part.kernel_w; ++x)
            want.push_back(w[static_cast<std::size_t>(row * columns + (c * g.kernel_h + y + first_h) * g.kernel_w + x + first_w)]);
        }
      }
    }
    WeightsPtr cropped;
    CHECK(crop_taps(*whole, part, first_h, first_w, &cropped).ok());
    check_same(*cropped, want);
    CHECK(!crop_taps(*whole, part, g.kernel_h - part.kernel_h + 1, first_w, &cropped).ok());
  }
}

TEST(row_scale_and_bias) {
  Random random(22);
  const std::vector<float> w = sparse_matrix(5, 9, 0.5, 1, &random), scale = {2, 0, -1, 0.5f, 1},
                           bias = {1, 2, 3, 4, 5};
  for (const Storage storage : {Storage::csr, Storage::dense}) {
    PackOptions options;
    options.storage = storage;
    options.row_scale = scale.data();
    options.bias = bias.data();
    WeightsPtr weights;
    CHECK(pack_dense(matmul_geometry(9, 5), DenseView{w.data(), 9, 1}, options, &weights).ok());
    std::vector<float> back(45);
    weights->to_dense(back.data());
    bool right = true;
    for (int i = 0; i < 45; ++i) right = right && back[i] == w[i] * scale[i / 9];
    CHECK(right);
    CHECK(std::memcmp(weights->bias(), bias.data(), 20) == 0);
  }
}

TEST(analysis_sees_structure) {
  Random random(23);
  const ConvGeometry g = matmul_geometry(256, 64);
  Analysis a;
  std::vector<float> w = sparse_matrix(64, 256, 0.1, 4, &random);
  const std::int64_t nnz = count_nonzeros(w.data(), static_cast<std::int64_t>(w.size()));
  CHECK(analyse(g, DenseView{w.data(), 256, 1}, nnz, 0, &a).ok());
  CHECK(a.block_fill[0] == 1.0 && a.block_fill[1] == 1.0 && a.block_fill[2] < 0.7);
  Analysis some;  // from half of the rows, and lying across
  CHECK(analyse(g, DenseView{w.data(), 256, 1}, nnz, 32, &some).ok());
  CHECK(a.nnz == nnz && some.nnz == nnz && some.rows == 64 && some.sparsity() == a.sparsity());
  CHECK(some.block_fill[1] == 1.0 && std::abs(some.block_fill[2] - a.block_fill[2]) < 0.1);
  std::vector<float> across(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) across[i % 256 * 64 + i / 256] = w[i];
  Analysis turned;
  CHECK(analyse(g, DenseView{across.data(), 1, 64}, nnz, 32, &turned).ok());
  CHECK(turned.nnz == some.nnz && turned.block_fill[2] == some.block_fill[2]);
  CHECK(packed(g, w, Storage::automatic)->storage() == Storage::block);
  w = sparse_matrix(64, 256, 0.1, 1, &random);
  CHECK(packed(g, w, Storage::automatic)->storage() == Storage::csr);
  w = sparse_matrix(64, 256, 0.9, 1, &random);
  CHECK(packed(g, w, Storage::automatic)->storage() == Storage::dense);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = (i + i / 256) % 4 < 2 ? 1.0f : 0.0f;
  w[0] = 0.0f;
  CHECK(packed(g, w, Storage::automatic)->storage() == Storage::nm);
  CHECK(std::strcmp(packed(g, w, Storage::automatic)->name(), "nm2:4") == 0);
}

TEST(blob_round_trip) {
  for (const std::vector<std::uint8_t>& blob : sample_blobs()) {
    WeightsPtr weights;
    const Status status = read_blob(blob.data(), blob.size(), &weights);
    if (!CHECK_SAY(status.ok(), status.message)) continue;
    std::vector<std::uint8_t> again(weights->blob_bytes());
    weights->write_blob(again.data());
    CHECK(again == blob);
    exercise(*weights);
    for (std::size_t cut = 0; cut < blob.size(); ++cut) {
      const std::vector<std::uint8_t> shorter(blob.begin(),
                                              blob.begin() + static_cast<std::ptrdiff_t>(cut));
      CHECK(read_blob(shorter.data(), shorter.size(), &weights).code == Code::corrupt);
    }
  }
}

TEST(blob_mutations) {
  // 10,000 damaged blobs: each is refused with a message or safe to use.
  Random random(24);
  const std::vector<std::vector<std::uint8_t>> blobs = sample_blobs();
  long accepted = 0, refused = 0;
  for (int i = 0; i < 10000; ++i) {
    std::vector<std::uint8_t> blob =
        blobs[static_cast<std::size_t>(random.below(static_cast<int>(blobs.size())))];
    const int changes = random.between(1, 4);
    for (int k = 0; k < changes; ++k) {
      const int size = static_cast<int>(blob.size());
      const int at = random.below(2) ? random.below(size)
                                     : random.below(size < 128 ? size : 128);  // headers more often
      switch (random.below(5)) {
        case 0: blob[at] = static_cast<std::uint8_t>(random.next()); break;
        case 1: blob[at] ^= static_cast<std::uint8_t>(1u << random.below(8)); break;
        case 2: blob[at] = 0xff; break;
        case 3: blob.insert(blob.begin() + at, static_cast<std::uint8_t>(random.next())); break;
        default: blob.erase(blob.begin() + at);
      }
      if (blob.empty()) blob.push_back(0);
    }
    WeightsPtr weights;
    const Status status = read_blob(blob.data(), blob.size(), &weights);
    if (status.ok()) {
      exercise(*weights);
      ++accepted;
    } else {
      CHECK(status.message[0] != 0 && weights == nullptr);
      ++refused;
    }
  }
  CHECK(accepted > 100 && refused > 100);  // both paths were taken
}

TEST(vector_plans) {
  Random random(25);
  for (const int rows : {1, 5, 16, 130}) {
    for (const int columns : {1, 9, 64, 201}) {
      for (const Storage storage : {Storage::csr, Storage::block, Storage::dense}) {
        const std::vector<float> w = sparse_matrix(rows, columns, 0.3, 4, &random);
        const WeightsPtr weights = packed(matmul_geometry(columns, rows), w, storage);
        for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
          if (!isa_supported(isa)) continue;
          PlanOptions options;
          options.isa = isa;
          options.epilogue.activation = Activation::silu;
          options.epilogue.residual = Residual::after_activation;
          PlanPtr plan;
          const Status status =
              make_plan(*weights, vector_layout(), vector_layout(), options, &plan);
          if (!CHECK_SAY(status.ok(), status.message)) continue;
          const int images = 3;
          std::vector<float> x(static_cast<std::size_t>(columns) * images),
              y(static_cast<std::size_t>(rows) * images), residual(y.size());
          for (float& v : x) v = random.symmetric();
          for (float& v : residual) v = random.symmetric();
          RunArgs args;
          args.in = x.data();
          args.out = y.data();
          args.residual = residual.data();
          args.images = images;
          args.in_image_stride = columns;
          args.out_image_stride = rows;
          std::vector<float> scratch(plan->scratch_bytes() / sizeof(float));
          plan->run(args, 0, plan->work_items(images), scratch.data());
          bool right = true;
          for (int n = 0; n < images; ++n) {
            for (int r = 0; r < rows; ++r) {
              double sum = 0.0, size = 1.0;
              for (int c = 0; c < columns; ++c) {
                sum += static_cast<double>(w[static_cast<std::size_t>(r) * columns + c]) *
                       x[static_cast<std::size_t>(n) * columns + c];
                size += std::fabs(w[static_cast<std::size_t>(r) * columns + c]);
              }
              const double want = reference::activate(options.epilogue, sum) +
                                  residual[static_cast<std::size_t>(n) * rows + r];
              right = right &&
                      std::fabs(y[static_cast<std::size_t>(n) * rows + r] - want) < 1e-6 * size;
            }
          }
          CHECK(right);
        }
      }
    }
  }
}
