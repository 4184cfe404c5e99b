// Every kernel on every instruction set over awkward shapes, against the double reference.
#include <cstdint>
#include <cstring>

#include "conv_cases.h"

using namespace conv_cases;

TEST(conv_named_shapes) {
  std::uint64_t seed = 1;
  for (const int channels : {1, 3, 5, 17}) {
    for (const int size : {1, 7, 13}) {
      for (const int kernel : {1, 3, 5}) {
        check_case(conv(channels, 2 * channels + 1, size, size, kernel, kernel, kernel / 2),
                   seed++);
      }
    }
  }
  Case wide = conv(6, 9, 9, 21, 1, 7, 0);
  wide.g.pad_left = wide.g.pad_right = 3;
  check_case(wide, seed++);
  Case tall = conv(6, 9, 11, 8, 5, 1, 0);
  check_case(tall, seed++);
  for (int tail = 1; tail <= 48; ++tail)
    check_case(conv(7, 12, 1, tail, 1, 1, 0), seed++);  // all vector tails
}

TEST(conv_zero_patterns) {
  std::uint64_t seed = 1000;
  for (const Zeros zeros : {Zeros::random, Zeros::none, Zeros::all, Zeros::blocks4, Zeros::blocks8,
                            Zeros::n2m4, Zeros::rows_and_columns}) {
    for (const int kernel : {1, 3}) {
      for (const Storage storage :
           {Storage::automatic, Storage::csr, Storage::block, Storage::dense}) {
        Case c = conv(24, 34, 10, 11, kernel, kernel, kernel / 2);
        c.zeros = zeros;
        c.density = 0.12;
        c.storage = storage;
        check_case(c, seed++);
      }
    }
  }
  Case nm = conv(64, 20, 5, 9, 1, 1, 0);
  nm.zeros = Zeros::n2m4;
  nm.storage = Storage::nm;
  check_case(nm, seed++);
}

TEST(conv_strides_and_dilations) {
  std::uint64_t seed = 2000;
  for (const int stride : {1, 2, 3}) {
    for (const int kernel : {1, 2, 3, 5}) {
      for (const int dilation : {1, 2}) {
        for (const int size : {7, 13, 16}) {
          Case c = conv(5, 11, size, size + 1, kernel, kernel, dilation * (kernel / 2));
          c.g.stride_h = c.g.stride_w = stride;
          c.g.dilation_h = c.g.dilation_w = dilation;
          check_case(c, seed++);
        }
      }
    }
  }
  Case patches = conv(3, 10, 27, 27, 9, 9, 0);  // more than 64 phases
  patches.g.stride_h = patches.g.stride_w = 9;
  check_case(patches, seed++);
  Case mixed = conv(4, 6, 9, 14, 3, 3, 1);
  mixed.g.stride_h = 2;
  check_case(mixed, seed++);
}

TEST(conv_groups) {
  std::uint64_t seed = 3000;
  for (const int groups : {2, 3, 6}) {
    for (const int stride : {1, 2}) {
      Case c = conv(12, 18, 9, 10, 3, 3, 1);
      c.g.groups = groups;
      c.g.stride_h = c.g.stride_w = stride;
      c.density = 0.4;
      check_case(c, seed++);
      c.zeros = Zeros::none;
      check_case(c, seed++);
    }
  }
  // Minimal filtering: every window it does, sizes about its tiles, tails of vectors.
  for (const int kernel : {3, 4, 5, 6, 7, 8}) {
    for (const int size : {8, 9, 31, 70}) {
      Case c = conv(3, 7, size, size + 3, kernel, kernel, kernel / 2);
      c.g.stride_h = c.g.stride_w = kernel < 5 ? 1 : 2;
      c.g.pad_bottom = kernel % 3;
      c.zeros = Zeros::none;
      c.threads = 1 + size % 2;
      if (size == 9) c.epilogue.residual = Residual::before_activation;
      c.epilogue.activation = size == 31 ? Activation::silu : Activation::relu;
      check_case(c, seed++);
    }
  }
  Case depthwise = conv(19, 19, 14, 14, 3, 3, 1);
  depthwise.g.groups = 19;
  depthwise.zeros = Zeros::none;
  depthwise.epilogue.activation = Activation::hard_swish;
  check_case(depthwise, seed++);
  for (const int kernel : {3, 5}) {
    for (const int stride : {1, 2}) {
      for (const int size : {kernel - 1, 6, 15, 17, 33}) {
        Case c = conv(3, 3, size, size + 2, kernel, kernel, kernel / 2);
        c.g.groups = 3;
        c.g.stride_h = c.g.stride_w = stride;
        c.zeros = size % 2 == 0 ? Zeros::random : Zeros::none;
        c.images = 1 + size % 2;
        check_case(c, seed++);
        c.g.pad_top = c.g.pad_left = 0;  // as TensorFlow pads
        c.epilogue.activation = Activation::clip;
        c.epilogue.alpha = -0.25f;
        c.epilogue.beta = 0.5f;
        c.epilogue.residual = Residual::after_activation;
        check_case(c, seed++);
        c.out_need.stride_h = c.out_need.stride_w = 2;
        c.out_need.phase_mask = 5;
        c.threads = 2;
        check_case(c, seed++);
      }
    }
  }
  // Input and output of one pitch: narrow planes are computed as one row.
  for (const int width : {1, 3, 5, 7, 9, 12, 17, 20}) {
    for (const int kernel : {3, 5}) {
      Case narrow = conv(5, 5, 11, width, kernel, kernel, kernel / 2);
      narrow.g.groups = 5;
      narrow.zeros = Zeros::none;
      const std::int32_t pitch =
          make_layout(narrow.height, narrow.width, conv_need(narrow.g, narrow.height, narrow.width)).pitch;
      for (const std::int32_t more : {0, 2}) {
        for (const Activation activation : {Activation::relu, Activation::tanh}) {
          narrow.epilogue.activation = activation;
          narrow.epilogue.residual = more == 0 ? Residual::none : Residual::after_activation;
          narrow.out_need.pitch = more == 0 ? pitch : 0;
          narrow.out_need.left = narrow.out_need.right = more;
          check_case(narrow, seed++);
        }
      }
    }
  }
  // Rows far apart, and planes of a single row.
  for (const int height : {1, 2, 9}) {
    for (const int width : {4, 15, 16, 23, 37, 70}) {
      for (const int kernel : {3, 5}) {
        Case far = conv(3, 3, height, width, kernel, kernel, kernel / 2);
        far.g.groups = 3;
        far.zeros = Zeros::none;
        far.epilogue.activation = height == 2 ? Activation::sigmoid : Activation::relu;
        for (const int between : {0, 5, 40}) {
          far.out_need.pitch = between == 0 ? 0 : width + between;
          check_case(far, seed++);
        }
      }
    }
  }
  depthwise.g.out_channels = 38;  // multiplier 2
  depthwise.g.stride_h = depthwise.g.stride_w = 2;
  check_case(depthwise, seed++);
}

TEST(conv_column_blocks) {
  // Enough input channels for several column blocks in every family.
  std::uint64_t seed = 4000;
  for (const Zeros zeros : {Zeros::random, Zeros::none, Zeros::blocks4, Zeros::rows_and_columns}) {
    Case c = conv(700, 24, 8, 18, 1, 1, 0);
    c.zeros = zeros;
    c.density = 0.05;
    c.epilogue.activation = Activation::silu;
    c.epilogue.residual = Residual::before_activation;
    check_case(c, seed++);
    c = conv(260, 13, 7, 7, 3, 3, 1);
    c.zeros = zeros;
    c.density = 0.03;
    check_case(c, seed++);
    // Rows enough for threads to share them, tile by tile and in one tile.
    for (const int size : {7, 14}) {
      c = conv(300, 260, size, size, 1, 1, 0);
      c.zeros = zeros;
      c.density = 0.03;
      c.threads = size == 7 ? 2 : 3;
      check_case(c, seed++);
    }
  }
}

TEST(conv_random) {
  Random random(77);
  for (int i = 0; i < 150; ++i) {
    Case c;
    c.g.groups = random.below(4) == 0 ? random.between(2, 4) : 1;
    c.g.in_channels = c.g.groups * random.between(1, 24);
    c.g.out_channels = c.g.groups * random.between(1, 24);
    c.g.kernel_h = random.between(1, 5);
    c.g.kernel_w = random.between(1, 5);
    c.g.stride_h = random.between(1, 3);
    c.g.stride_w = random.between(1, 3);
    c.g.dilation_h = random.between(1, 2);
    c.g.dilation_w = random.between(1, 2);
    c.g.pad_top = random.between(0, 3);
    c.g.pad_left = random.between(0, 3);
    c.g.pad_bottom = random.between(0, 3);
    c.g.pad_right = random.between(0, 3);
    c.height = random.between(1, 20);
    c.width = random.between(1, 20);
    c.images = random.between(1, 3);
    c.zeros = static_cast<Zeros>(random.below(7));
    c.density = random.uniform();
    c.epilogue = random_epilogue(&random);
    c.threads = random.between(1, 3);
    switch (random.below(4)) {  // what the consumer of the output wants
      case 0:
        c.out_need.top = c.out_need.left = c.out_need.bottom = c.out_need.right =
            random.between(0, 2);
        break;
      case 1:
        c.out_need.stride_h = random.between(1, 2);
        c.out_need.stride_w = 2;
        c.out_need.top = c.out_need.left = 1;
        c.out_need.phase_mask = static_cast<std::uint64_t>(random.between(1, 3)) | 1;
        break;
      case 2: {  // the input's own pitch: stored in place
        const PlaneLayout in = make_layout(c.height, c.width, conv_need(c.g, c.height, c.width));
        c.out_need.pitch = in.pitch;
        break;
      }
      default: break;
    }
    check_case(c, 5000 + static_cast<std::uint64_t>(i));
  }
}

TEST(conv_rejects_what_does_not_fit) {
  ConvGeometry g;
  g.in_channels = 2;
  g.out_channels = 2;
  g.kernel_h = g.kernel_w = 3;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 1;
  const std::vector<float> w(36, 1.0f);
  WeightsPtr weights;
  CHECK(pack_dense(g, DenseView{w.data(), 18, 1}, PackOptions{}, &weights).ok());
  const PlaneLayout bare = make_layout(4, 4), padded = make_layout(4, 4, conv_need(g, 4, 4));
  PlanPtr plan;
  CHECK(make_plan(*weights, bare, padded, PlanOptions{}, &plan).code == Code::unsupported);
  CHECK(make_plan(*weights, padded, make_layout(5, 4), PlanOptions{}, &plan).code ==
        Code::invalid_argument);
  PlanOptions unknown;
  unknown.kernel = "no_such_kernel";
  CHECK(make_plan(*weights, padded, padded, unknown, &plan).code == Code::unsupported);
  CHECK(make_plan(*weights, padded, padded, PlanOptions{}, &plan).ok());
}

TEST(conv_tunings) {
  // Every kernel with its inner sizes forced: packing, small column blocks, short tiles, the
  // register shapes of generated code, code prefetch.
  Random random(91);
  std::size_t count = 0;
  const KernelEntry* kernels = kernel_list(&count);
  for (int i = 0; i < 60; ++i) {
    Case c = conv(random.between(1, 70), random.between(1, 40), random.between(1, 12),
                  random.between(1, 30), 1, 1, 0);
    if (i % 2)
      c.g.kernel_h = c.g.kernel_w = 3,
      c.g.pad_top = c.g.pad_left = c.g.pad_bottom = c.g.pad_right = 1;
    if (i % 5 == 0) c.g.stride_h = c.g.stride_w = 2;
    if (i % 7 == 0)
      c.out_need.stride_h = c.out_need.stride_w = 2, c.out_need.phase_mask = 15;  // through scratch
    c.zeros = static_cast<Zeros>(random.below(7));
    c.density = random.uniform() * 0.6;
    c.images = random.between(1, 2);
    c.threads = random.between(1, 2);
    c.epilogue = random_epilogue(&random);
    const Problem problem = make_problem(c, 7000 + static_cast<std::uint64_t>(i));
    if (problem.weights == nullptr) continue;
    for (std::size_t k = 0; k < count; ++k) {
      if (!applies(kernels[k], c)) continue;
      Tuning tuning;
      tuning.pack = random.below(2);
      tuning.input_budget = 1 << random.between(8, 15);
      tuning.max_vectors = random.between(1, 9);
      tuning.pixels = random.between(1, 4);
      tuning.rows = random.between(1, 32);
      tuning.embedded = random.below(2) != 0;
      tuning.shift = random.below(3) != 0;
      tuning.fetch = random.below(2) == 0;
      tuning.alike = random.below(4) != 0;
      tuning.fetch_second = random.below(2);
      run_case(c, problem, kernels[k].isa, kernels[k].name, tuning);
    }
  }
}

TEST(conv_rows_of_a_kind) {
  // Rows that keep the same columns are computed together, wherever their outputs lie: the same sums.
  Random random(101);
  std::size_t count = 0;
  const KernelEntry* kernels = kernel_list(&count);
  for (int i = 0; i < 40; ++i) {
    Case c = conv(10 * random.between(1, 12), 2 * random.between(20, 90), random.between(1, 12),
                  random.between(1, 20), 1, 1, 0);
    if (i % 3 == 1)
      c.g.kernel_h = c.g.kernel_w = 3,
      c.g.pad_top = c.g.pad_left = c.g.pad_bottom = c.g.pad_right = 1;
    if (i % 4 == 1) c.g.groups = 2;
    if (i % 4 == 2) c.out_need.stride_h = c.out_need.stride_w = 2, c.out_need.phase_mask = 15;
    c.zeros = i % 5 == 4 ? Zeros::random : Zeros::families;
    c.density = c.zeros == Zeros::random ? 0.06 : 0.7;
    c.threads = random.between(1, 4);
    c.epilogue = random_epilogue(&random);
    const Problem problem = make_problem(c, 8000 + static_cast<std::uint64_t>(i));
    for (std::size_t k = 0; k < count; ++k) {
      if (!kernels[k].generated || !applies(kernels[k], c)) continue;
      Tuning plain;
      plain.alike = false;
      const auto together = run_case(c, problem, kernels[k].isa, kernels[k].name);
      const auto apart = run_case(c, problem, kernels[k].isa, kernels[k].name, plain);
      // What is not stored is not compared: it holds whatever was there.
      bool equal = together.size() == apart.size();
      for (std::size_t j = 0; j < together.size() && equal; ++j)
        equal = together[j] == apart[j];
      CHECK_SAY(equal, describe(c, kernels[k].name) + ": rows together give other sums");
    }
  }
}

TEST(conv_without_generated_code) {
  // Whatever forbids generated code, plans are made all the same, of other kernels.
  const char* reason = nullptr;
  const bool available = code_generation_available(&reason);
  CHECK(available == (reason[0] == 0));
  const char* wish = std::getenv("ONNXPRUNE_JIT");
  if (testing::executable_memory_denied() || (wish != nullptr && std::strcmp(wish, "0") == 0))
    CHECK(!available);
  Case c = conv(64, 64, 12, 12, 3, 3, 1);
  c.density = 0.15;
  const Problem problem = make_problem(c, 9000);
  for (const bool allowed : {true, false}) {
    PlanOptions options;
    options.generate_code = allowed;
    const PlaneLayout layout = make_layout(12, 12, conv_need(c.g, 12, 12));
    PlanPtr plan;
    const Status status = make_plan(*problem.weights, layout, layout, options, &plan);
    if (!CHECK_SAY(status.ok(), status.message)) continue;
    CHECK((plan->info().code_bytes > 0) <= (allowed && available));
    CHECK(plan->info().bytes > 0 && plan->info().build_seconds > 0 && plan->info().cycles > 0);
    if (active_isa() == Isa::avx512 && allowed && available) CHECK(plan->info().code_bytes > 0);
  }
  check_case(c, 9000);
}
