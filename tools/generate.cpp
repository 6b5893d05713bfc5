#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/device.h"
#include "tools/output.h"

namespace cbq {

void generate_command(const GenerateOptions& options) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(options.model);
  const std::unique_ptr<Context> ctx = open_device(options.device);
  const Model model(*ctx, options.model, options.device.compute());
  const bool is_streamed = options.format == ResultFormat::text;
  const std::string text =
      generate(*ctx, model, *tokenizer, options.prompt, options.generation, [&](std::string_view piece) {
        if (is_streamed) print(piece);
      });
  if (is_streamed)
    print("\n");
  else
    print_json({{"model", options.model.string()},
                {"prompt", options.prompt},
                {"temperature", options.generation.temperature},
                {"top_k", options.generation.top_k},
                {"seed", options.generation.seed},
                {"text", text}});
}

}  // namespace cbq
