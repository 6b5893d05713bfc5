#include "quant/run.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/progress.h"
#include "models/dataset.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "quant/evaluation.h"
#include "quant/export.h"
#include "quant/metrics.h"
#include "quant/provenance.h"
#include "quant/reconstruct.h"
#include "quant/report/page.h"
#include "quant/time_plan.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

// Seconds and peak of the compute memory of each phase.
class Phases {
 public:
  explicit Phases(Allocator& allocator) : allocator_(allocator) {}
  // What happened since the last call, or since construction, belongs to `phase`.
  void end(const std::string& phase) {
    const auto now = std::chrono::steady_clock::now();
    seconds[phase] = std::chrono::duration<double>(now - last_).count();
    peak_bytes[phase] = allocator_.peak_bytes();
    last_ = now;
    allocator_.reset_peak();
  }
  Json seconds = Json::object(), peak_bytes = Json::object();

 private:
  Allocator& allocator_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::vector<std::int32_t> stream_of(const Tokenizer& tokenizer, const std::filesystem::path& file,
                                    const ModelConfig& model) {
  return token_stream(tokenizer, read_texts(file), model.vocab);
}

// nsamples + heldout windows; with several files each gives its share.
Windows calibration(const RunConfig& config, const Tokenizer& tokenizer, const ModelConfig& model) {
  require_input(!config.dataset.empty(), "config: method ", config.method == Method::cbq ? "cbq" : "gptq",
                " needs calibration text, found no `dataset`; give a .txt, .json, .jsonl or .json.gz file");
  const std::int64_t count = config.nsamples + config.heldout, files = std::int64_t(config.dataset.size());
  Windows windows;
  for (std::int64_t f = 0; f < files; ++f) {
    const auto& file = config.dataset[std::size_t(f)];
    const std::int64_t share = count * (f + 1) / files - count * f / files;
    const auto part = calibration_windows(stream_of(tokenizer, file, model), share, config.seqlen, config.seed, file);
    windows.insert(windows.end(), part.begin(), part.end());
  }
  return windows;
}

Windows evaluation(const RunConfig& config, const Tokenizer& tokenizer, const ModelConfig& model) {
  Windows windows;
  for (const auto& file : config.eval.data) {
    const auto part = eval_windows(stream_of(tokenizer, file, model), config.eval.seqlen, config.eval.windows, file);
    windows.insert(windows.end(), part.begin(), part.end());
  }
  return windows;
}

// Of all parts of an interrupted run: the seconds of its windows, and the largest of their peaks.
void add_windows(Phases& phases, const std::filesystem::path& metrics) {
  double seconds = 0;
  std::int64_t peak = 0;
  std::ifstream in(metrics);
  for (std::string line; std::getline(in, line);) {
    const auto window = nlohmann::json::parse(line);
    seconds += window.value("seconds", 0.0);
    peak = std::max(peak, window.value("peak_bytes", std::int64_t{0}));
  }
  phases.seconds["reconstruct"] = seconds;
  phases.peak_bytes["reconstruct"] = peak;
}

// By phase, where one is known: what it would take if all of it ran at the speed of a matrix product.
Json time_floors(const TimePlan& plan, const ModelConfig& model, const Windows& eval) {
  Json floors = Json::object();
  if (plan.flops_per_second <= 0) return floors;
  floors["reconstruct"] = plan.floor;
  if (!eval.empty())
    floors["evaluate"] = evaluation_flops(model, std::ssize(eval), std::ssize(eval[0])) / plan.flops_per_second;
  return floors;
}

}  // namespace

void print_plan(const RunPlan& plan, const RunConfig& config, const ModelConfig& m, std::FILE* log) {
  std::fprintf(log, "model    %s: %s, %lld blocks, hidden %lld, %s parameters\n", config.model.string().c_str(),
               m.architecture.c_str(), static_cast<long long>(m.layers), static_cast<long long>(m.hidden),
               format_count(parameter_count(m)).c_str());
  const auto windows = plan_windows(config, m.layers);
  const std::int64_t steps = config.epochs * ((config.nsamples + config.batch_size - 1) / config.batch_size);
  if (config.method == Method::cbq)
    std::fprintf(
        log, "plan     W%dA%d, %zu windows of up to %lld blocks, %lld steps each, %lld + %lld samples of %lld tokens\n",
        config.wbits, config.abits, windows.size(), static_cast<long long>(config.window),
        static_cast<long long>(steps), static_cast<long long>(config.nsamples), static_cast<long long>(config.heldout),
        static_cast<long long>(config.seqlen));
  else
    std::fprintf(log, "plan     W%dA%d, %s, %zu blocks one at a time\n", config.wbits, config.abits,
                 config.method == Method::gptq ? "GPTQ" : "round to nearest", windows.size());
  const MemoryPlan& memory = plan.memory;
  std::fprintf(log, "memory   %s expected at the peak:", format_bytes(memory.device_bytes()).c_str());
  for (const MemoryItem& item : memory.device)
    if (item.bytes > 0) std::fprintf(log, " %s %s;", item.what.c_str(), format_bytes(item.bytes).c_str());
  std::fprintf(log, "\n");
  if (memory.host_bytes + memory.disk_bytes > 0)
    std::fprintf(log, "offload  activation streams: %s on the host, %s on disk\n",
                 format_bytes(memory.host_bytes).c_str(), format_bytes(memory.disk_bytes).c_str());
  if (memory.staged_bytes > 0)
    std::fprintf(log, "host     %s page-locked, for weights read ahead\n", format_bytes(memory.staged_bytes).c_str());
  if (plan.time.expected > 0)
    std::fprintf(log, "time     about %s for all windows\n", format_duration(plan.time.expected).c_str());
}

Json plan_json(const RunPlan& plan) {
  Json items = Json::array();
  for (const MemoryItem& item : plan.memory.device) items.push_back({{"what", item.what}, {"bytes", item.bytes}});
  return {{"device", items},
          {"device_bytes", plan.memory.device_bytes()},
          {"host_bytes", plan.memory.host_bytes},
          {"disk_bytes", plan.memory.disk_bytes},
          {"staged_bytes", plan.memory.staged_bytes},
          {"expected_s", plan.time.expected},
          {"floor_s", plan.time.floor}};
}

RunPlan plan_run(Context* ctx, const RunConfig& config) {
  require_input(!gguf_file(config.model), config.model.string(), ": a GGUF file can be evaluated but not quantised ",
                "again; give the folder of a Hugging Face checkpoint");
  const ModelConfig model = read_model_config(config.model);
  if (std::ranges::find(config.exports, Export::gguf) != config.exports.end())
    tokenization::gguf_vocabulary(config.model, model);  // refuses a tokenizer that the file could not hold
  const std::int64_t samples = needs_calibration(config) ? config.nsamples + config.heldout : 0;
  const std::int64_t available = ctx ? ctx->bytes_available() : std::numeric_limits<std::int64_t>::max();
  const std::int64_t base = ctx ? ctx->allocator->bytes_in_use() : 0;
  RunPlan plan{plan_memory(config, block_specs(config, model), samples, available), {}};
  if (base > 0) plan.memory.device.push_back({"workspace of matrix products", base});
  if (ctx) plan.time = plan_time(*ctx, config, model, samples);
  return plan;
}

namespace {

Json run_planned(Context& ctx, const RunConfig& given, const RunPlan& plan, std::FILE* log,
                 const std::stop_token& stop) {
  Phases phases(*ctx.allocator);
  RunConfig config = given;
  const Model model(ctx, config.model, compute_dtype(config.precision, config.device));
  const auto tokenizer = Tokenizer::open(config.model);
  require_input(tokenizer->vocab_size() <= model.config().vocab, "tokenizer: ids up to ", tokenizer->vocab_size() - 1,
                ", but ", config.model.string(), " has a vocabulary of ", model.config().vocab,
                "; put the model's own tokenizer there");
  const std::vector<BlockSpec> specs = block_specs(config, model.config());
  config.offload = plan.memory.offload;
  const Windows samples = needs_calibration(config) ? calibration(config, *tokenizer, model.config()) : Windows{};
  const Windows eval = evaluation(config, *tokenizer, model.config());

  const Fingerprint print = fingerprint(given);
  RunStore store(config.output_dir, print);
  const std::filesystem::path report_file = config.output_dir / "report.json",
                              page_file = config.output_dir / "report.html",
                              metrics_file = config.output_dir / "metrics.jsonl";
  if (store.finished()) {
    std::fprintf(log, "%s is complete; choose another output_dir, or delete it, to run again\n",
                 config.output_dir.string().c_str());
    return Json::parse(read_file(report_file));
  }
  write_file(config.output_dir / "run_config.json", to_json(given).dump(2) + "\n");
  print_plan(plan, config, model.config(), log);
  if (store.windows_done() > 0)
    std::fprintf(log, "resume   %lld windows are done\n", static_cast<long long>(store.windows_done()));
  phases.end("prepare");

  Reconstruction(ctx, model, config, specs, samples, store, log).run(metrics_file, stop);
  phases.end("reconstruct");
  add_windows(phases, metrics_file);
  for (std::size_t i = 0; i < config.exports.size(); ++i)
    export_model(ctx, finished_blocks(ctx, model, store, specs), config.exports[i],
                 export_folder(config.output_dir, config.exports, i), config.max_shard_size);
  phases.end("export");

  const EvaluatedModel evaluated{model, config, specs, store};
  Json report;
  report["config"] = to_json(given);
  report["model"] = {{"architecture", model.config().architecture},
                     {"blocks", model.config().layers},
                     {"hidden", model.config().hidden},
                     {"parameters", parameter_count(model.config())}};
  report["results"] = Json::object();
  if (!eval.empty()) report.update(evaluate_run(ctx, evaluated, eval, log, stop));
  phases.end("evaluate");
  report["texts"] = continue_prompts(ctx, evaluated, *tokenizer);
  phases.end("generate");
  add_provenance(report, ctx, given, model.config(), specs, print);
  report["time_s"] = phases.seconds;
  report["time_floor_s"] = time_floors(plan.time, model.config(), eval);
  report["peak_memory_bytes"] = phases.peak_bytes;
  report["peak_memory_bytes"]["process"] = process_peak_bytes();
  report["memory_plan"] = plan_json(plan);
  write_file(report_file, report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  write_file(page_file, run_page(read_run_record(config.output_dir)));
  store.finish();
  for (std::size_t i = 0; i < config.exports.size(); ++i)
    std::fputs(export_text(config.exports[i], export_folder(config.output_dir, config.exports, i), specs).c_str(), log);
  std::fprintf(log, "report   %s\n", page_file.string().c_str());
  return report;
}

}  // namespace

nlohmann::ordered_json run(Context& ctx, const RunConfig& given, std::FILE* log, std::stop_token stop) {
  const RunPlan plan = plan_run(&ctx, given);
  require_fits(plan.memory, given, ctx.bytes_available());
  try {
    return run_planned(ctx, given, plan, log, stop);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::device_lost)
      fail(error.kind(), error.what(), "; finished windows are kept, the same command goes on");
    if (error.kind() != ErrorKind::out_of_memory) throw;
    const std::string place = roomier_setting(given.device, plan.memory.offload);
    fail(error.kind(), error.what(), "; finished windows are kept, the same command goes on when there is more",
         place.empty() ? "" : ", or with ", place, ", and in another output_dir less is needed by ",
         smaller_settings(given));
  }
}

void print_results(const nlohmann::ordered_json& report, std::FILE* out) {
  if (report["results"].empty()) return;
  std::fprintf(out, "\n%-16s %12s %10s %8s\n", "", "perplexity", "KL", "top-1");
  for (const auto& [name, quality] : report["results"].items())
    std::fprintf(out, "%-16s %12.4f %10.5f %7.2f%%\n", name.c_str(), quality["perplexity"].get<double>(),
                 quality["kl"].get<double>(), 100 * quality["top1"].get<double>());
}

}  // namespace cbq
