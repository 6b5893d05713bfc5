#include "cuda/requirements.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace cbq::cuda {
namespace {

constexpr int kLowestCapability = 80;  // the first with bf16 products on tensor cores

std::string version_text(int version) {
  return concat(version / 1000, ".", version % 1000 / 10);
}

// Of all numbers in the text; 0 where it has none.
int lowest_number(std::string_view text) {
  int lowest = std::numeric_limits<int>::max(), number = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool is_digit = i < text.size() && text[i] >= '0' && text[i] <= '9';
    if (is_digit) number = 10 * number + (text[i] - '0');
    if (is_digit || number == 0) continue;
    lowest = std::min(lowest, number);
    number = 0;
  }
  return lowest == std::numeric_limits<int>::max() ? 0 : lowest;
}

}  // namespace

void require_driver(int driver, int runtime) {
  require_input(driver != 0, "cuda: no NVIDIA driver was found; use \"device\": \"cpu\", or install a driver");
  require_input(driver / 1000 >= runtime / 1000, "cuda: the driver supports CUDA ", version_text(driver),
                ", this program was built with ", version_text(runtime), "; update the driver");
}

void require_gpu(int device, int count, std::string_view found) {
  require_input(count > 0, "cuda: no GPU was found (", found, "); use \"device\": \"cpu\"");
  require_input(device >= 0 && device < count, "cuda: there is no GPU ", device, ", only 0 .. ", count - 1);
}

void require_capability(const std::string& gpu, int capability, std::string_view built_for) {
  if (capability >= std::max(lowest_number(built_for), kLowestCapability)) return;
  const std::string found = concat("cuda: ", gpu, " has compute capability ", capability / 10, ".", capability % 10);
  require_input(capability >= kLowestCapability, found, ", the kernels need 8.0 or more; use \"device\": \"cpu\"");
  fail(ErrorKind::bad_input, found, ", this program was built for ", built_for,
       "; rebuild with -DCBQ_CUDA_ARCHITECTURES=", capability);
}

}  // namespace cbq::cuda
