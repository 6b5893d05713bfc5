// libFuzzer target: the first byte picks the reader (tokenizer.json, tokenizer.model, vocab.json and merges.txt with a
// zero byte between them), the rest is its file. Build with -DCBQ_FUZZERS=ON and clang.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/error.h"
#include "models/tokenizer/kinds.h"

namespace {

std::unique_ptr<cbq::Tokenizer> open(std::uint8_t kind, std::string_view file) {
  using namespace cbq::tokenization;
  if (kind % 3 == 0) return from_tokenizer_json(file, {}, "fuzz");
  if (kind % 3 == 1) return from_sentencepiece(file, {}, "fuzz");
  const std::size_t end = std::min(file.find('\0'), file.size());
  return from_vocab_and_merges(file.substr(0, end), file.substr(std::min(end + 1, file.size())), {}, "fuzz");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view file(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto tokenizer = open(data[0], file);
    tokenizer->decode(tokenizer->encode("The caf\xc3\xa9's  12 <mask> dogs\xff\n\n</s>"));
    tokenizer->decode(tokenizer->encode(file.substr(0, 256)));
  } catch (const cbq::Error& error) {
    if (error.kind() != cbq::ErrorKind::bad_input) __builtin_trap();
  }
  return 0;
}
