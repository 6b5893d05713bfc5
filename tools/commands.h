// The commands of `cbq`, one function each. Results go to standard output, everything else to standard error; all throw
// Error, which only main catches.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/context.h"
#include "models/generate.h"

namespace cbq {

// How a result is printed: for people, or as one JSON object.
enum class ResultFormat { text, json };

struct DeviceOptions {
  Device device = Device::cpu;
  int threads = 0;  // of the CPU; 0: as many as the machine has
  Precision precision = Precision::automatic;
  DType compute() const { return compute_dtype(precision, device); }
};

struct RunOptions {
  std::filesystem::path config;
  std::vector<std::string> settings;  // key=value
  ResultFormat format = ResultFormat::text;
};
// Quantises a model as the configuration says. An interrupt (Ctrl-C) or SIGTERM saves the state first.
void run_command(const RunOptions& options);

// What that run would take: memory by item and place, and the expected time. Does no work and writes nothing.
void plan_command(const RunOptions& options);

struct ReportOptions {
  std::vector<std::filesystem::path> folders;  // of runs
  std::optional<std::filesystem::path> out;    // default for one run: FOLDER/report.html
  ResultFormat format = ResultFormat::text;
};
// Makes the page of a run again, or one page of several runs side by side, from what is saved in their folders.
void report_command(const ReportOptions& options);

struct TrainOptions {
  std::filesystem::path config;
  std::vector<std::string> settings;  // key=value
  ResultFormat format = ResultFormat::text;
};
// Trains a small model from scratch as the configuration says. An interrupt (Ctrl-C) or SIGTERM ends it without a
// result.
void train_command(const TrainOptions& options);

// Text to measure on.
struct EvalData {
  std::vector<std::filesystem::path> files;
  std::optional<std::int64_t> seqlen;  // default: 2048, or the model's positions if they are fewer
  std::int64_t windows = 0;            // most of each file; 0: all
};

struct EvalOptions {
  std::filesystem::path model;
  EvalData data;
  std::optional<std::filesystem::path> reference;
  DeviceOptions device;
  ResultFormat format = ResultFormat::text;
};
// Perplexity over the windows of all files, and the distance from a reference model on the same windows.
void eval_command(const EvalOptions& options);

struct CompareOptions {
  std::vector<std::filesystem::path> models;  // the first is the reference
  EvalData data;
  DeviceOptions device;
  ResultFormat format = ResultFormat::text;
};
// Perplexity, distance from the first model, bits per weight and size of several models in one table.
void compare_command(const CompareOptions& options);

struct ExportOptions {
  std::filesystem::path model;
  std::string to;                            // name of the format
  std::optional<std::filesystem::path> out;  // default: MODEL/FORMAT
  std::int64_t max_shard_size = 5'000'000'000;
  int threads = 0;
  ResultFormat format = ResultFormat::text;
};
// Writes a packed checkpoint in another format, from its integers.
void export_command(const ExportOptions& options);

struct InspectOptions {
  std::filesystem::path model;
  int threads = 0;
  ResultFormat format = ResultFormat::text;
};
// What a checkpoint is: architecture, sizes, quantisation, and outliers of every linear layer.
void inspect_command(const InspectOptions& options);

struct GenerateOptions {
  std::filesystem::path model;
  std::string prompt;
  GenerationOptions generation;
  DeviceOptions device;
  ResultFormat format = ResultFormat::text;
};
// Continues a prompt; as text it is written while it comes.
void generate_command(const GenerateOptions& options);

}  // namespace cbq
