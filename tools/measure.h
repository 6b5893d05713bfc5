// What commands that measure models share: windows of the given texts, and a model's states on them.
#pragma once

#include <nlohmann/json.hpp>

#include "models/perplexity.h"
#include "tools/commands.h"

namespace cbq {

// Tokens of a window: what is asked for, or 2048, or the model's positions if they are fewer. Error{bad_input}: more
// than the model has.
std::int64_t window_length(const EvalData& data, const ModelConfig& config);
// The windows of all files in the tokens of the model in `folder`.
Windows read_windows(const EvalData& data, const std::filesystem::path& folder, const ModelConfig& config,
                     std::int64_t seqlen);
// Hidden states after the model's own blocks; `title` names the bar of progress.
std::vector<Tensor> own_states(Context& ctx, const Model& model, const Windows& windows, const std::string& title);
// Error{bad_input} unless the two have vocabularies of one size.
void require_one_vocabulary(const Model& reference, const Model& model);
// Error{failure} when the perplexity is not finite.
void require_finite(const Quality& quality, const std::filesystem::path& model);
// One file as a string, several as a list.
nlohmann::ordered_json data_json(const EvalData& data);

}  // namespace cbq
