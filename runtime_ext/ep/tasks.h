// A few threads for work done once, when a session is made. (Runs use the session's own pool.)
#pragma once

#include <cstddef>
#include <functional>

namespace onnxprune::ep {

// Calls task(0) .. task(count - 1), each once, on up to four threads; the first exception is rethrown
// after all have stopped.
void run_tasks(size_t count, const std::function<void(size_t)>& task);

}  // namespace onnxprune::ep
