// Accuracy of the activation functions over their whole range, on every instruction set.
#include <cfenv>
#include <cstdint>
#include <limits>

#include "harness.h"
#include "ops/table.h"
#include "reference.h"

namespace {

using namespace onnxprune::kernels;

void check_activation(Isa isa, Activation activation, float low, float high) {
  Epilogue e;
  e.activation = activation;
  e.alpha = activation == Activation::clip           ? -1.5f
            : activation == Activation::hard_sigmoid ? 0.2f
                                                     : 0.01f;
  e.beta = activation == Activation::clip ? 2.5f : 0.5f;
  const int count = 200003;  // not a multiple of any vector
  std::vector<float> x(static_cast<std::size_t>(count)), y(x.size());
  for (int i = 0; i < count; ++i)
    x[i] = low + (high - low) * static_cast<float>(i) / static_cast<float>(count - 1);
  for (int i = 0; i < 200; ++i) x[i] = std::ldexp(i % 2 ? 1.3f : -1.7f, -i / 2);  // tiny ones too
  ops_table(isa).affine(e, x.data(), 1.0f, 0.0f, y.data(), nullptr, count);
  double worst = 0.0;
  float where = 0.0f;
  for (int i = 0; i < count; ++i) {
    const double want = reference::activate(e, x[i]);
    // Tails whose factors reach the denormal range may become zero; hard_sigmoid and hard_swish
    // cross zero away from x = 0, where rounding of the sum is what is left; the left tail of the
    // tanh form magnifies the rounding of its cubic argument (1 + tanh would be zero there).
    const bool crosses =
        activation == Activation::hard_sigmoid || activation == Activation::hard_swish;
    if (std::fabs(want) < 1e-31 && std::fabs(y[i] - want) < 2e-37) continue;
    const double least = crosses                               ? 0.25
                         : activation == Activation::gelu_tanh ? 1e-3 * std::fabs(x[i])
                                                               : 1e-38;
    const double error = std::fabs(y[i] - want) / std::fmax(std::fabs(want), least);
    if (!(error <= worst)) {
      worst = error;
      where = x[i];
    }
  }
  char text[160];
  std::snprintf(text, sizeof text, "%s on %s: relative error %.3g at %g",
                activation_name(activation), isa_name(isa), worst, where);
  CHECK_SAY(worst <= 1e-6, text);

  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  float special[17] = {nan, infinity, -infinity, 0.0f, -0.0f, 3e38f, -3e38f, 90.0f, -90.0f, 1e-40f};
  ops_table(isa).affine(e, special, 1.0f, 0.0f, special, nullptr, 17);
  std::snprintf(text, sizeof text, "%s on %s: NaN is lost", activation_name(activation),
                isa_name(isa));
  const bool clamps = activation == Activation::hard_sigmoid;
  CHECK_SAY(clamps || std::isnan(special[0]), text);
  std::snprintf(text, sizeof text, "%s on %s: infinity gives %g", activation_name(activation),
                isa_name(isa), special[1]);
  const double limit = reference::activate(e, 3e38);
  CHECK_SAY(std::isinf(special[1]) || std::fabs(special[1] - limit) < 1e-6, text);
  const double low_limit = reference::activate(e, -3e38);
  std::snprintf(text, sizeof text, "%s on %s: -3e38 gives %g", activation_name(activation),
                isa_name(isa), special[6]);
  CHECK_SAY(std::fabs(special[6] - low_limit) <= 1e-6 * std::fabs(low_limit), text);
  CHECK(!std::isnan(special[3]) && std::fabs(special[3] - reference::activate(e, 0.0)) < 1e-7);
}

// Denormal numbers, if only on the way, take a processor a hundred cycles each.
void check_no_denormals(Isa isa, Activation activation) {
  Epilogue e;
  e.activation = activation;
  std::vector<float> x, y;
  for (int i = -40000; i <= 40000; ++i) x.push_back(0.005f * static_cast<float>(i));
  y.resize(x.size());
  std::feclearexcept(FE_ALL_EXCEPT);
  ops_table(isa).affine(e, x.data(), 1.0f, 0.0f, y.data(), nullptr, static_cast<std::int64_t>(x.size()));
  char text[80];
  std::snprintf(text, sizeof text, "%s on %s underflows", activation_name(activation), isa_name(isa));
  CHECK_SAY(!std::fetestexcept(FE_UNDERFLOW), text);
}

}  // namespace

TEST(activations_stay_clear_of_denormals) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa)) continue;
    for (const Activation a : {Activation::sigmoid, Activation::silu, Activation::tanh,
                               Activation::gelu_erf, Activation::gelu_tanh})
      check_no_denormals(isa, a);
  }
}

TEST(activation_accuracy) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa)) continue;
    for (int a = 0; a <= static_cast<int>(Activation::gelu_tanh); ++a) {
      check_activation(isa, static_cast<Activation>(a), -12.0f, 12.0f);
      check_activation(isa, static_cast<Activation>(a), -80.0f, 80.0f);
    }
  }
}
