// make_stories: the text that the example models are trained, calibrated and measured on. One story a line, as JSON
// with the field `text`; the same seed gives the same stories everywhere.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tools/output.h"
#include "tools/story.h"

int main(int argc, char** argv) {
  std::int64_t documents = 1000;
  std::uint64_t seed = 0;
  CLI::App app("Writes small stories as JSON lines to standard output.", "make_stories");
  app.add_option("--documents", documents, "Stories to write")
      ->check(CLI::Range(std::int64_t(1), std::int64_t(1'000'000'000)))
      ->capture_default_str();
  app.add_option("--seed", seed, "Same seed, same stories")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  cbq::prepare_standard_streams();
  try {
    cbq::Rng rng(seed);
    for (std::int64_t i = 0; i < documents; ++i)
      cbq::print(nlohmann::json{{"text", cbq::story_grammar().expand("story", rng)}}.dump() + "\n");
  } catch (const std::exception& error) {
    std::cerr << "make_stories: error: " << error.what() << std::endl;
    return 1;
  }
}
