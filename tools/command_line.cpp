#include "tools/command_line.h"

#include <CLI/CLI.hpp>

#include "quant/config_fields.h"
#include "quant/config_keys.h"
#include "quant/export.h"
#include "tools/train_config.h"

namespace cbq {
namespace {

constexpr const char* kModelAbout = "Folder of the checkpoint, or a .gguf file";
constexpr const char* kThreadsAbout = "CPU threads; 0: as many as the machine has";
constexpr int kMostThreads = 4096;
constexpr const char* kExitCodes =
    "Exit codes: 0 done, 1 the work failed, 2 the input is at fault; errors are one line on standard error.";
constexpr std::int64_t kMost = 1'000'000'000;

std::string footer(const std::string& text) {
  return "\n" + text + "\n\n" + kExitCodes;
}

void add_json(CLI::App* command, ResultFormat& format) {
  command->add_flag_callback(
      "--json", [&format] { format = ResultFormat::json; }, "Print the result as one JSON object");
}

template <class T>
CLI::Option* add_number(CLI::App* command, const std::string& name, T& value, T low, T high, const std::string& about) {
  return command->add_option(name, value, about)->check(CLI::Range(low, high))->option_text(concat("N=", value));
}

CLI::Option* add_file(CLI::App* command, const std::string& name, std::filesystem::path& path,
                      const std::string& about) {
  return command->add_option(name, path, about)->required()->option_text(" ");
}

void add_device(CLI::App* command, DeviceOptions& options) {
  const auto choose = [&options](const std::string& name) {
    options.device = name == "cuda" ? Device::cuda : Device::cpu;
  };
  command->add_option_function<std::string>("--device", choose, "Where to compute: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->option_text("NAME=cpu");
  const auto choose_precision = [&options](const std::string& name) {
    options.precision = name == "float32"    ? Precision::f32
                        : name == "bfloat16" ? Precision::bf16
                                             : Precision::automatic;
  };
  command
      ->add_option_function<std::string>("--precision", choose_precision,
                                         "Of weights and activations; auto: float32, on a GPU bfloat16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->option_text("NAME=auto");
  add_number(command, "--threads", options.threads, 0, kMostThreads, kThreadsAbout);
}

void add_settings(CLI::App* command, std::vector<std::string>& settings) {
  command->add_option("--set", settings, "Values over those of the file; dotted keys reach into objects")
      ->option_text("KEY=VALUE ...");
}

void add_run(CLI::App& app, RunOptions& options) {
  CLI::App* run = app.add_subcommand("run", "Quantise a model as a configuration says");
  add_file(run, "CONFIG", options.config, "JSON file");
  add_settings(run, options.settings);
  add_json(run, options.format);
  run->callback([&options] { run_command(options); });
  run->footer(footer(concat(
      R"(Keys of CONFIG, with defaults and what they may be. Paths start from the file's folder, those of --set
from the working folder. "scheme": "W4A16" or "W4A16_ASYM" stands for wbits, abits and sym.
)",
      config_help(), R"(
The result is OUTPUT_DIR with the checkpoint and report.json. The same command goes on with an interrupted run.

Examples:
  cbq run llama.json
  cbq run llama.json --set wbits=2 group_size=64 eval.windows=8 --json > result.json)")));
}

void add_plan(CLI::App& app, RunOptions& options) {
  CLI::App* plan = app.add_subcommand("plan", "Say what memory and time a run would take");
  add_file(plan, "CONFIG", options.config, "JSON file, as `cbq run` takes it");
  add_settings(plan, options.settings);
  add_json(plan, options.format);
  plan->callback([&options] { plan_command(options); });
  plan->footer(
      footer(R"(Memory is counted by the run's own code on a device that computes nothing, and is right within a
tenth. Time comes from the speed of one matrix product. A plan that does not fit the device is an error that
says which settings need less. Nothing is written.

Examples:
  cbq plan llama.json
  cbq plan llama.json --set device=cuda offload=host --json)"));
}

void add_report(CLI::App& app, ReportOptions& options) {
  CLI::App* report = app.add_subcommand("report", "Make the page of a run again, or of several side by side");
  report->add_option("OUTPUT", options.folders, "Output folders of runs, finished or not")
      ->required()
      ->option_text("...");
  report->add_option("--out", options.out, "The page; one run without it: OUTPUT/report.html")->option_text("FILE");
  add_json(report, options.format);
  report->callback([&options] { report_command(options); });
  report->footer(footer(R"(The page is one HTML file that needs no other, made of report.json, metrics.jsonl and
run_config.json.

Examples:
  cbq report llama-7b-w4
  cbq report llama-7b-w4 llama-7b-w3 --out compared.html)"));
}

void add_train(CLI::App& app, TrainOptions& options) {
  CLI::App* train = app.add_subcommand("train", "Train a small model from scratch");
  add_file(train, "CONFIG", options.config, "JSON file");
  add_settings(train, options.settings);
  add_json(train, options.format);
  train->callback([&options] { train_command(options); });
  train->footer(footer(concat(
      R"(Keys of CONFIG and what they may be. Paths start from the file's folder, those of --set from the working
folder.
)",
      train_config_help(), R"(
The result is OUTPUT_DIR with weights, tokenizer and config.json. The same command with the same number of threads
writes the same bytes on the same machine.

Example:
  cbq train examples/tiny-llama/train.json)")));
}

void add_data(CLI::App* command, EvalData& data) {
  command->add_option("--data", data.files, "Text: .txt or .raw, .json or .jsonl with `text`, each also .gz")
      ->required()
      ->option_text("FILE ...");
  command
      ->add_option("--seqlen", data.seqlen, "Tokens of a window; without it as many as the model takes, at most 2048")
      ->check(CLI::Range(std::int64_t(2), kMost))
      ->option_text("N");
  add_number(command, "--windows", data.windows, std::int64_t(0), kMost, "Most windows of each file; 0: all");
}

void add_eval(CLI::App& app, EvalOptions& options) {
  CLI::App* eval = app.add_subcommand("eval", "Measure perplexity, and the distance from another model");
  add_file(eval, "MODEL", options.model, kModelAbout);
  add_data(eval, options.data);
  eval->add_option("--reference", options.reference, "Measure KL divergence and top-1 agreement against this one")
      ->option_text("MODEL");
  add_device(eval, options.device);
  add_json(eval, options.format);
  eval->callback([&options] { eval_command(options); });
  eval->footer(footer(
      R"(Perplexity is exp of the windows' mean loss, taken over all tokens of a window but the first. A text file is
one text with one BOS, a .json or .jsonl file has a BOS before each document; the tail that fills no window is dropped.
Several files are measured together, with windows from each.
JSON: model, data (a list if several), seqlen, windows, tokens, perplexity; with a reference kl (nats a token) and
top1 (share).

Examples:
  cbq eval llama-7b --data wiki.test.raw
  cbq eval llama-7b-w4 --data wiki.test.raw --windows 16 --reference llama-7b --json)"));
}

void add_compare(CLI::App& app, CompareOptions& options) {
  CLI::App* compare = app.add_subcommand("compare", "Measure several models against the first, in one table");
  compare->add_option("MODEL", options.models, "Folders of checkpoints; the first is the reference")
      ->required()
      ->option_text("...");
  add_data(compare, options.data);
  add_device(compare, options.device);
  add_json(compare, options.format);
  compare->callback([&options] { compare_command(options); });
  compare->footer(footer(
      R"(The windows are those of the first model's tokenizer, as `cbq eval` takes them. Bits per weight are those of the
linear layers in the blocks, with step sizes and zero points; the size is that of all tensors. Checkpoints of
compressed-tensors and GPTQ are read as well as dense ones.
JSON: data, seqlen, windows, models [{model, perplexity, kl, top1, bits_per_weight, bytes}].

Example:
  cbq compare llama-7b llama-7b-w4 llama-7b-gptq --data wiki.test.raw --windows 16)"));
}

void add_export(CLI::App& app, ExportOptions& options) {
  CLI::App* command = app.add_subcommand("export", "Write a quantised checkpoint in another format");
  std::vector<std::string> names;
  for (const ExportFormat& format : export_formats()) names.push_back(format.name);
  add_file(command, "MODEL", options.model, "Folder of a packed checkpoint, such as the output of `cbq run`");
  command->add_option("--format", options.to, "The format: " + listed(names))
      ->required()
      ->check(CLI::IsMember(names))
      ->option_text("NAME");
  command->add_option("--out", options.out, "A new folder; without it MODEL/NAME")->option_text("DIR");
  add_number(command, "--max-shard-size", options.max_shard_size, std::int64_t(1), std::int64_t(1'000'000'000'000),
             "Most bytes of tensors in a file");
  add_number(command, "--threads", options.threads, 0, kMostThreads, kThreadsAbout);
  add_json(command, options.format);
  command->callback([&options] { export_command(options); });
  command->footer(footer(R"(The integers are those of MODEL, so nothing is calibrated and every format computes the same
weights. Says which programs read the result, and the command that loads it.

Examples:
  cbq export llama-7b-w4 --format gptq
  cbq export llama-7b-w4 --format dense --out llama-7b-w4-dense)"));
}

void add_inspect(CLI::App& app, InspectOptions& options) {
  CLI::App* inspect = app.add_subcommand("inspect", "Show what a checkpoint is: sizes, quantisation, outliers");
  add_file(inspect, "MODEL", options.model, kModelAbout);
  add_number(inspect, "--threads", options.threads, 0, kMostThreads, kThreadsAbout);
  add_json(inspect, options.format);
  inspect->callback([&options] { inspect_command(options); });
  inspect->footer(footer("Examples:\n  cbq inspect llama-7b\n  cbq inspect llama-7b-w4 --json | jq .bytes.total"));
}

void add_generate(CLI::App& app, GenerateOptions& options) {
  CLI::App* generate = app.add_subcommand("generate", "Continue a text");
  GenerationOptions& g = options.generation;
  add_file(generate, "MODEL", options.model, kModelAbout);
  generate->add_option("--prompt", options.prompt, "What to continue")->required()->option_text("TEXT");
  add_number(generate, "--tokens", g.max_tokens, std::int64_t(1), kMost, "Most new tokens");
  add_number(generate, "--temperature", g.temperature, 0.0, 100.0,
             "0: always the likeliest token; higher: more chance");
  add_number(generate, "--top-k", g.top_k, std::int64_t(0), kMost, "Draw from the k likeliest tokens; 0: from all");
  generate->add_option("--seed", g.seed, "Same seed, same text")->check(CLI::NonNegativeNumber)->option_text("N=0");
  add_device(generate, options.device);
  add_json(generate, options.format);
  generate->callback([&options] { generate_command(options); });
  generate->footer(footer(R"(The new text is written while it comes, without the prompt.

Examples:
  cbq generate stories --prompt "Once upon a time"
  cbq generate stories --prompt "Lily saw" --tokens 64 --temperature 0.8 --top-k 40 --seed 7)"));
}

}  // namespace

void add_commands(CLI::App& app, CommandOptions& options) {
  app.footer(footer("Each command explains itself: cbq COMMAND --help"));
  add_run(app, options.run);
  add_plan(app, options.plan);
  add_report(app, options.report);
  add_train(app, options.train);
  add_eval(app, options.eval);
  add_compare(app, options.compare);
  add_export(app, options.to_format);
  add_inspect(app, options.inspect);
  add_generate(app, options.generate);
}

}  // namespace cbq
