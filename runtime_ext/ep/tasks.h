// A few threads for work done once, when a session is made. (Runs use the session's own pool.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace onnxprune::ep {

// Calls task(i) once for every entry of `costs`, on up to four threads, the costliest first, so that
// none is left with a long one at the end; the first exception is rethrown after all have stopped.
void run_tasks(const std::vector<int64_t>& costs, const std::function<void(size_t)>& task);

}  // namespace onnxprune::ep
