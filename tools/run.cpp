#include "quant/run.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "quant/cross_block.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/interrupts.h"
#include "tools/output.h"

namespace cbq {

void run_command(const RunOptions& options) {
  const RunConfig config = read_run_config(options.config, options.settings);
  const Interrupts interrupts;
  const std::unique_ptr<Context> ctx = open_device({config.device, config.threads});
  try {
    const nlohmann::ordered_json report = run(*ctx, config, stderr, interrupts.token());
    if (options.format == ResultFormat::json) {
      print_json(report);
    } else {
      print_results(report, stdout);
      print("");  // shows whether the table could be written
    }
  } catch (const Interrupted&) {
    fail(ErrorKind::failure, "run: interrupted; the state is saved, the same command goes on from there");
  }
}

}  // namespace cbq
