#include "models/dataset.h"

#include <zlib.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/rng.h"

namespace cbq {
namespace {

using nlohmann::json;

// Unpacked bytes of one file. The largest files of the field, shards of C4, have 0.9 GB.
constexpr std::int64_t kMaxFileBytes = std::int64_t(1) << 33;
constexpr const char* kTextKey = "text";

std::string read_gzip(const std::filesystem::path& file) {
  require_input(std::filesystem::is_regular_file(file), file.string(), ": expected a file, found none");
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> stream(gzopen(file.c_str(), "rb"), gzclose);
  require_input(stream != nullptr, file.string(), ": cannot be opened");
  std::string contents, part(1 << 20, '\0');
  for (int count; (count = gzread(stream.get(), part.data(), unsigned(part.size()))) != 0;) {
    int code = Z_OK;
    require_input(count > 0, file.string(), ": cannot be unpacked: ", gzerror(stream.get(), &code));
    contents.append(part, 0, std::size_t(count));
    require_input(std::ssize(contents) <= kMaxFileBytes, file.string(), ": more than ", kMaxFileBytes,
                  " bytes when unpacked; split it");
  }
  // A file that was cut off ends without an error in gzread; the state of the stream tells.
  int code = Z_OK;
  const char* text = gzerror(stream.get(), &code);
  require_input(code == Z_OK || code == Z_STREAM_END, file.string(), ": cannot be unpacked: ", text);
  return contents;
}

std::string text_of(json value, const std::string& where) {
  if (value.is_string()) return std::move(value.get_ref<std::string&>());
  require_input(value.is_object(), where, ": expected an object with the key \"", kTextKey, "\", or a string, found ",
                value.type_name());
  const auto found = value.find(kTextKey);
  require_input(found != value.end(), where, ": expected the key \"", kTextKey, "\", not found");
  require_input(found->is_string(), where, ": ", kTextKey, ": expected a string, found ", found->type_name());
  return std::move(found->get_ref<std::string&>());
}

std::vector<std::string> texts_of_array(const std::string& contents, const std::string& name) {
  std::vector<std::string> texts;
  json root = parse_json_text(contents, name);
  for (json& entry : root) texts.push_back(text_of(std::move(entry), concat(name, ": entry ", texts.size() + 1)));
  return texts;
}

std::vector<std::string> texts_of_lines(std::string_view contents, const std::string& name) {
  std::vector<std::string> texts;
  std::int64_t number = 0;
  while (!contents.empty()) {
    const std::size_t end = std::min(contents.find('\n'), contents.size());
    const std::string_view line = contents.substr(0, end);
    contents.remove_prefix(std::min(end + 1, contents.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = concat(name, ": line ", number);
    texts.push_back(text_of(parse_json_text(line, where), where));
  }
  return texts;
}

// encode() of all texts, in threads; the first error in order of the texts is thrown.
std::vector<std::vector<std::int32_t>> encode_all(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<std::vector<std::int32_t>> ids(texts.size());
  std::vector<std::exception_ptr> errors(texts.size());
#pragma omp parallel for schedule(dynamic, 16)
  for (std::size_t i = 0; i < texts.size(); ++i) {
    try {
      ids[i] = tokenizer.encode(texts[i]);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return ids;
}

}  // namespace

Texts read_texts(const std::filesystem::path& file) {
  const bool packed = file.extension() == ".gz";
  const std::string kind = packed ? file.stem().extension().string() : file.extension().string();
  const bool plain = kind == ".txt" || kind == ".raw", is_json = kind == ".json" || kind == ".jsonl";
  require_input(plain || is_json, file.string(), ": expected a name that ends in .txt, .raw, .json or .jsonl, or in ",
                "one of them and .gz");
  std::string contents = packed ? read_gzip(file) : read_file(file, kMaxFileBytes);
  Texts result;
  result.documents = is_json;
  const std::size_t first = contents.find_first_not_of(" \t\r\n");
  require_input(first != std::string::npos, file.string(), ": expected texts, the file is empty");
  if (plain)
    result.texts.push_back(std::move(contents));
  else if (kind == ".json" && contents[first] == '[')
    result.texts = texts_of_array(contents, file.string());
  else
    result.texts = texts_of_lines(contents, file.string());
  require_input(!result.texts.empty(), file.string(), ": expected texts, found an empty list");
  return result;
}

std::vector<std::int32_t> token_stream(const Tokenizer& tokenizer, const Texts& texts, std::int64_t vocab) {
  require_input(tokenizer.vocab_size() <= vocab, "the tokenizer has ids up to ", tokenizer.vocab_size() - 1,
                ", the model's vocab_size is ", vocab, "; it belongs to another model");
  std::vector<std::int32_t> stream;
  for (const std::vector<std::int32_t>& ids : encode_all(tokenizer, texts.texts)) {
    if (tokenizer.bos() && (texts.documents || stream.empty())) stream.push_back(*tokenizer.bos());
    stream.insert(stream.end(), ids.begin(), ids.end());
  }
  for (const std::int32_t id : stream)
    require_input(id >= 0 && id < vocab, "the tokenizer gives the id ", id, ", the model's vocab_size is ", vocab,
                  "; it belongs to another model");
  return stream;
}

std::vector<std::vector<std::int32_t>> eval_windows(const std::vector<std::int32_t>& stream, std::int64_t seqlen,
                                                    std::int64_t limit, const std::filesystem::path& file) {
  require_input(seqlen >= 2, "seqlen: expected at least 2 tokens, found ", seqlen);
  const std::int64_t tokens = std::ssize(stream);
  require_input(tokens >= seqlen, file.string(), ": ", tokens, " tokens are less than one window of ", seqlen,
                "; use a longer text or a smaller seqlen");
  std::int64_t count = tokens / seqlen;
  if (limit > 0) count = std::min(count, limit);
  std::vector<std::vector<std::int32_t>> windows;
  for (std::int64_t w = 0; w < count; ++w)
    windows.emplace_back(stream.begin() + w * seqlen, stream.begin() + (w + 1) * seqlen);
  return windows;
}

std::vector<std::vector<std::int32_t>> calibration_windows(const std::vector<std::int32_t>& stream, std::int64_t count,
                                                           std::int64_t seqlen, std::uint64_t seed,
                                                           const std::filesystem::path& file) {
  require_input(count >= 1, "nsamples: expected at least 1, found ", count);
  require_input(seqlen >= 2, "seqlen: expected at least 2 tokens, found ", seqlen);
  const std::int64_t tokens = std::ssize(stream);
  require_input(tokens > seqlen, file.string(), ": random windows of ", seqlen, " tokens need more than ", seqlen,
                " tokens, found ", tokens, "; use a longer text or a smaller seqlen");
  PythonRandom random(seed);
  std::vector<std::vector<std::int32_t>> windows;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = random.randint(0, tokens - seqlen - 1);
    windows.emplace_back(stream.begin() + begin, stream.begin() + begin + seqlen);
  }
  return windows;
}

}  // namespace cbq
