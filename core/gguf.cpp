#include "core/gguf.h"

#include "core/error.h"
#include "core/json.h"

namespace cbq {

GgufFile::GgufFile(const std::filesystem::path& path)
    : path_(path), file_(path), header_(parse_gguf_header(file_.bytes(), path.string())) {}

void GgufFile::fail_type(const std::string& key) const {
  fail(ErrorKind::bad_input, path_.string(), ": ", key, ": found a value of another type than the key has");
}

const GgufTensor& GgufFile::tensor(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  require_input(found != header_.tensors.end(), path_.string(), ": expected a tensor ", quoted_text(name),
                ", not found among ", header_.tensors.size(), " tensors");
  return found->second;
}

std::span<const std::byte> GgufFile::bytes(const std::string& name) const {
  const GgufTensor& found = tensor(name);
  return file_.bytes().subspan(std::size_t(found.begin), std::size_t(found.bytes));
}

void GgufFile::release(const std::string& name) const {
  const GgufTensor& found = tensor(name);
  file_.release(found.begin, found.bytes);
}

}  // namespace cbq
