// libFuzzer target: a GGUF file of arbitrary bytes. Build with -DCBQ_FUZZERS=ON and clang.
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "core/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const cbq::GgufHeader header = cbq::parse_gguf_header(file, "fuzz");
    std::uint64_t sum = 0;
    for (const auto& [name, tensor] : header.tensors)
      for (std::byte b : file.subspan(std::size_t(tensor.begin), std::size_t(tensor.bytes))) sum += std::uint64_t(b);
    const volatile std::uint64_t touched = sum;  // keeps the reads
    static_cast<void>(touched);
  } catch (const cbq::Error&) {
  }
  return 0;
}
