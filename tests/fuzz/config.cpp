// libFuzzer entry for the run configuration: the file's text, and after a zero byte one setting.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "quant/config_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  std::vector<std::string> settings;
  if (end != std::string::npos) settings.push_back(input.substr(end + 1));
  try {
    const cbq::RunConfig config = cbq::parse_run_config(input.substr(0, end), "run.json", "/base", settings);
    if (!(cbq::parse_run_config(cbq::to_json(config).dump(), "run.json", "/", {}) == config)) __builtin_trap();
  } catch (const cbq::Error& error) {
    if (error.kind() != cbq::ErrorKind::bad_input) __builtin_trap();
  }
  return 0;
}
