// Stands in for the backend in a build without CUDA.
#include "core/error.h"
#include "cuda/open.h"

namespace cbq::cuda {

std::unique_ptr<Context> open(int, FreshMemory) {
  fail(ErrorKind::bad_input,
       "cuda: this program was built without CUDA; rebuild where nvcc is on the PATH, or use \"device\": \"cpu\"");
}

}  // namespace cbq::cuda
