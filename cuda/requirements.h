// What a machine must have for the CUDA backend, as checks of numbers. Each throws Error{bad_input}.
#pragma once

#include <string>
#include <string_view>

namespace cbq::cuda {

// Versions as CUDA gives them, 1000 major + 10 minor. driver: the newest CUDA it supports, 0 where there is none. It
// must be of the runtime's major version or a later one.
void require_driver(int driver, int runtime);
// GPU `device` of `count`. found: what CUDA said about the machine, for the message where there is none.
void require_gpu(int device, int count, std::string_view found);
// capability: 10 major + minor. built_for: numbers such as "80, 90"; the code for each runs on every later GPU, which
// compiles it once more where it is not of its own kind.
void require_capability(const std::string& gpu, int capability, std::string_view built_for);

}  // namespace cbq::cuda
