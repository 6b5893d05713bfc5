// The commands of `cbq` with their options and help texts.
#pragma once

#include "tools/commands.h"

namespace CLI {
class App;
}

namespace cbq {

struct CommandOptions {
  RunOptions run, plan;
  ReportOptions report;
  TrainOptions train;
  EvalOptions eval;
  CompareOptions compare;
  ExportOptions to_format;
  InspectOptions inspect;
  GenerateOptions generate;
};

// Parsing `app` then fills the options of the command that was chosen and runs it. `options` must outlive `app`.
void add_commands(CLI::App& app, CommandOptions& options);

}  // namespace cbq
