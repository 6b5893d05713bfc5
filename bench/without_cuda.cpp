// Stands in for device_copy.cu in a build without CUDA, where open_gpu() finds no GPU to call it on.
#include "bench/gpu.h"

namespace cbq::bench {

void device_copy(Context&, View, View) {
  fail(ErrorKind::failure, "bench: this program was built without CUDA");
}

}  // namespace cbq::bench
