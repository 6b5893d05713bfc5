// libFuzzer target: a quantization_config of arbitrary text. Build with -DCBQ_FUZZERS=ON and clang.
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/json.h"
#include "models/packed.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const cbq::QuantizationConfig config(cbq::parse_json_text(text, "fuzz"), "fuzz");
    const int bits = config.scheme("model.layers.0.mlp.up_proj").wbits;
    if (bits != 16 && (bits < 1 || bits > 8)) __builtin_trap();
  } catch (const cbq::Error& error) {
    if (error.kind() != cbq::ErrorKind::bad_input) __builtin_trap();
  }
  return 0;
}
