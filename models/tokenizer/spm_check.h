// Checks a sentencepiece model before the library sees it.
#pragma once

#include <string>
#include <string_view>

namespace cbq::tokenization {

// The library trusts two things that a damaged file can break: the double-array trie of a normaliser, which it walks
// without looking at the bounds, and pieces, of which it asks uniqueness with an assertion that ends the process.
// Throws Error{bad_input} for a file that is no ModelProto (sentencepiece_model.proto) or breaks one of them.
void check_sentencepiece_model(std::string_view model, const std::string& name);

}  // namespace cbq::tokenization
