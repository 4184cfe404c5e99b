// A weighted sum of any kind, run by every kernel that does it and compared with the double reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness.h"
#include "plan_impl.h"

namespace conv_cases {

using namespace onnxprune::kernels;
using testing::Random;

enum class Zeros { random, none, all, blocks4, blocks8, n2m4, rows_and_columns, families };

struct Case {
  ConvGeometry g;
  int images = 1, height = 1, width = 1;
  Zeros zeros = Zeros::random;
  double density = 0.2;
  Epilogue epilogue;
  PadNeed out_need;  // of an imagined consumer
  int threads = 1;
  Storage storage = Storage::automatic;
};

// A case with its data and expected result.
struct Problem {
  WeightsPtr weights;
  std::vector<float> x, residual;
  std::vector<double> expected, magnitude;
};

// In words, for messages.
std::string describe(const Case& c, const char* kernel);

Problem make_problem(const Case& c, std::uint64_t seed);

// Returns the output [images, channels, height, width], empty if there is no plan.
std::vector<float> run_case(const Case& c, const Problem& problem, Isa isa, const char* kernel,
                            const Tuning& tuning = {});

// Whether this machine has the kernel and it does such convolutions: depth-wise windows have one of
// their own, which does nothing else.
bool applies(const KernelEntry& kernel, const Case& c);

// By all kernels that apply, and by those that are chosen.
void check_case(const Case& c, std::uint64_t seed);

Case conv(int in, int out, int height, int width, int kh, int kw, int pad);
Epilogue random_epilogue(Random* random);

}  // namespace conv_cases
