// The working folder of a run, OUTPUT/.cbq: finished blocks as integers, the learned state of the blocks in the window,
// and how far the run is. Every file appears by an atomic rename, so a kill at any moment leaves the last complete
// state.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "quant/config.h"

namespace cbq {

// A file as it was read: the hash is of the content up to 1 GiB; beyond, of size, header and samples.
struct FileRecord {
  std::filesystem::path path;
  std::int64_t bytes;
  std::string hash;
};
FileRecord file_record(const std::filesystem::path& path);

// What a resumed run must find unchanged.
struct Fingerprint {
  nlohmann::json config;       // the keys that influence the result, with their values
  std::string model, dataset;  // hashes of file contents
  std::string export_format;   // their names; may change until the run is finished, because the export comes last
  std::vector<FileRecord> model_files = {}, dataset_files = {};  // for the report; not compared
};
// Config: every key but device, threads, output_dir, eval, export and the paths of model and dataset, which may move.
// Model: config.json, tokenizer files and every shard. Dataset: the files, in their order.
Fingerprint fingerprint(const RunConfig& config);

class RunStore {
 public:
  // Takes the folder over. Errors (bad_input): it cannot be written; it holds files that no run of ours wrote; the
  // state in it belongs to another config, model or dataset (says which, and to choose another folder or delete it);
  // another process is working in it (lock file).
  RunStore(const std::filesystem::path& output_dir, const Fingerprint& fingerprint);

  const std::filesystem::path& folder() const { return folder_; }  // OUTPUT/.cbq

  // Windows completed, 0 at the start; the notes saved with them.
  std::int64_t windows_done() const { return progress_.windows_done; }
  const nlohmann::json& notes() const { return progress_.notes; }
  bool finished() const { return progress_.finished; }  // the export is complete

  // A block that is saved again, because the window it left did not complete, replaces the first one.
  void save_block(Context& ctx, std::int64_t layer, const HardBlock& block, DType stored);
  // The block as it was saved, bit for bit, when `compute` is the dtype it had. Errors (bad_input): missing or damaged
  // file, with what to delete.
  HardBlock load_block(Context& ctx, const ModelConfig& config, std::int64_t layer, DType compute) const;

  // Completes a window: the tensors of the blocks still in work, then the count, which must grow. A kill before the
  // last step leaves the state before this window.
  void save_window(Context& ctx, std::int64_t windows_done, const std::map<std::string, Tensor>& state,
                   const nlohmann::json& notes);
  // What the last save_window was given; nothing before the first. Errors as load_block.
  std::map<std::string, Tensor> load_state(Context& ctx) const;

  // Marks the run finished and removes what only a resume needs: blocks and state.
  void finish();

 private:
  struct Progress {
    std::int64_t windows_done = 0;
    nlohmann::json notes;
    bool finished = false;
  };

  std::filesystem::path block_path(std::int64_t layer) const;
  std::filesystem::path state_path(std::int64_t windows_done) const;
  void read_progress(const Fingerprint& fingerprint);
  void write_progress(const Progress& progress);
  void remove_superseded() const;

  std::filesystem::path folder_;
  FileDescriptor lock_;  // carries the lock, which the system drops when the process ends in whatever way
  Fingerprint fingerprint_;
  Progress progress_;
};

}  // namespace cbq
