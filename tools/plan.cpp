#include <nlohmann/json.hpp>

#include "quant/run.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/output.h"

namespace cbq {

void plan_command(const RunOptions& options) {
  const RunConfig config = read_run_config(options.config, options.settings);
  std::unique_ptr<Context> ctx;
  try {
    ctx = open_device({config.device, config.threads});
  } catch (const Error& error) {
    if (config.device == Device::cpu) throw;
    std::fprintf(stderr, "cbq: the plan knows no time and no limit of memory: %s\n", error.what());
  }
  const RunPlan plan = plan_run(ctx.get(), config);
  if (options.format == ResultFormat::json) {
    print_json(plan_json(plan));
  } else {
    print_plan(plan, config, read_model_config(config.model), stdout);
    print("");  // shows whether it could be written
  }
  if (ctx) require_fits(plan.memory, config, ctx->bytes_available());
}

}  // namespace cbq
