// The readers behind Tokenizer::open, one per kind of file. Each takes file contents, and `name` for its errors; all
// throw Error{bad_input} for content that is damaged or not supported.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "models/tokenizer/files.h"
#include "models/tokenizer/tokenizer.h"

namespace cbq::tokenization {

std::unique_ptr<Tokenizer> from_tokenizer_json(std::string_view source, const TokenizerConfig& config,
                                               const std::string& name);
// The same file, parsed.
std::unique_ptr<Tokenizer> from_parsed_tokenizer_json(const nlohmann::json& file, const TokenizerConfig& config,
                                                      const std::string& name);

// `merges`: one "left right" a line, in order of rank, after an optional line "#version".
std::unique_ptr<Tokenizer> from_vocab_and_merges(std::string_view vocab, std::string_view merges,
                                                 const TokenizerConfig& config, const std::string& name);

// `model`: a serialised sentencepiece ModelProto.
std::unique_ptr<Tokenizer> from_sentencepiece(std::string_view model, const TokenizerConfig& config,
                                              const std::string& name);

// The token put before each text: none when add_bos_token is false; when it is true `of_kind` or else bos_token, which
// `find` looks up; without the flag `of_kind`, what the kind of tokenizer does by itself.
std::optional<std::int32_t> bos_of(const TokenizerConfig& config, std::optional<std::int32_t> of_kind,
                                   const std::function<std::optional<std::int32_t>(const std::string&)>& find,
                                   const std::string& name);

}  // namespace cbq::tokenization
