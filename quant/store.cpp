#include "quant/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iomanip>
#include <sstream>
#include <system_error>
#include <vector>

#include "core/json.h"
#include "core/safetensors.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int kFormat = 1;  // of progress.json and the files it speaks of
constexpr const char* kLock = "lock";
constexpr const char* kProgress = "progress.json";
constexpr const char* kBlocks = "blocks";
constexpr const char* kStatePrefix = "state-";

// Runs an action of std::filesystem; its errors become ours.
template <class Action>
void file_action(const fs::path& path, const char* what, const Action& action) {
  std::error_code error;
  action(error);
  require_input(!error, path.string(), ": cannot ", what, ": ", error.message(),
                "; make the folder writable or choose another output_dir");
}

std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> paths;
  file_action(folder, "list the folder", [&](std::error_code& error) {
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
      paths.push_back(entry->path());
  });
  std::ranges::sort(paths);
  return paths;
}

void create_folder(const fs::path& folder) {
  file_action(folder, "create the folder", [&](std::error_code& error) { fs::create_directories(folder, error); });
}

void remove_tree(const fs::path& path) {
  file_action(path, "remove", [&](std::error_code& error) { fs::remove_all(path, error); });
}

// Whether AtomicFile made the name: <name>.tmp-<pid>-<n>.
bool is_temporary(const fs::path& path) {
  const std::string name = path.filename().string();
  const auto mark = name.rfind(".tmp-");
  if (mark == std::string::npos || mark == 0) return false;
  const std::string numbers = name.substr(mark + 5);
  return numbers.find('-') != std::string::npos && numbers.find_first_not_of("0123456789-") == std::string::npos;
}

// What killed runs left half written. Only the holder of the lock may call this.
void remove_temporaries(const fs::path& folder) {
  for (const fs::path& path : entries(folder))
    if (is_temporary(path)) remove_tree(path);
}

// A folder without record is ours to begin in when it is empty, or when a run was killed before its first record.
void require_unused(const fs::path& output_dir, const fs::path& folder) {
  const auto refuse = [&](const fs::path& path) {
    fail(ErrorKind::bad_input, output_dir.string(), ": expected an empty folder or one of an earlier run, found ",
         path.filename().string(), ", which no run of cbq wrote; choose another output_dir or empty this one");
  };
  for (const fs::path& path : entries(output_dir))
    if (path != folder) refuse(path);
  if (!fs::exists(folder)) return;
  for (const fs::path& path : entries(folder))
    if (path.filename() != kLock && path.filename() != kBlocks && !is_temporary(path)) refuse(path);
}

FileDescriptor locked(const fs::path& path) {
  FileDescriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  const int open_error = errno;
  require_input(fd.get() >= 0, path.string(), ": cannot create: ", std::generic_category().message(open_error),
                "; make the folder writable or choose another output_dir");
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  const int error = errno;
  require_input(error != EWOULDBLOCK, path.parent_path().parent_path().string(),
                ": another cbq process is working in this folder; wait for it or choose another output_dir");
  fail(ErrorKind::bad_input, path.string(), ": cannot lock: ", std::generic_category().message(error),
       "; choose an output_dir on a file system with locks");
}

[[noreturn]] void refuse_damaged(const fs::path& folder, const char* what) {
  fail(ErrorKind::bad_input, what, "; the state of the run is damaged: delete ", folder.parent_path().string(),
       " to start it anew");
}

// Reads through `action`; a file that is not what save wrote is an Error that says how to go on.
template <class Action>
auto intact(const fs::path& folder, const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::bad_input) throw;
    refuse_damaged(folder, error.what());
  } catch (const json::exception& error) {
    refuse_damaged(folder, error.what());
  }
}

std::string value_text(const json& object, const std::string& key) {
  return object.contains(key) ? object.at(key).dump() : "not set";
}

// "wbits was 4, is 3; rank was 5, is 8".
std::string differences(const json& before, const json& now) {
  json keys = before;
  keys.update(now);
  std::string text;
  for (const auto& [key, value] : keys.items()) {
    if (before.contains(key) && now.contains(key) && before.at(key) == now.at(key)) continue;
    text += concat(text.empty() ? "" : ", ", key, " was ", value_text(before, key), " and is ", value_text(now, key));
  }
  return text;
}

std::string numbered(const char* prefix, std::int64_t number) {
  std::ostringstream name;
  name << prefix << std::setw(5) << std::setfill('0') << number << ".safetensors";
  return name.str();
}

}  // namespace

RunStore::RunStore(const fs::path& output_dir, const Fingerprint& fingerprint)
    : folder_(output_dir / kStateFolder), fingerprint_(fingerprint) {
  std::error_code ignored;
  require_input(!fs::exists(output_dir, ignored) || fs::is_directory(output_dir, ignored), output_dir.string(),
                ": expected a folder, found a file; choose another output_dir");
  create_folder(output_dir);
  const bool has_record = fs::exists(folder_ / kProgress, ignored);
  if (!has_record) require_unused(output_dir, folder_);
  create_folder(folder_);
  lock_ = locked(folder_ / kLock);
  create_folder(folder_ / kBlocks);
  for (const fs::path& folder : {output_dir, folder_, folder_ / kBlocks}) remove_temporaries(folder);
  // Asked again: another process may have written it before this one had the lock.
  if (fs::exists(folder_ / kProgress, ignored))
    read_progress(fingerprint);
  else
    write_progress(progress_);
  remove_superseded();
}

void RunStore::read_progress(const Fingerprint& fingerprint) {
  const fs::path path = folder_ / kProgress;
  Fingerprint before;
  intact(folder_, [&] {
    const json record = parse_json_file(path);
    const auto format = record.at("format").get<int>();
    require_input(format == kFormat, path.string(), ": expected format ", kFormat, ", found ", format);
    before.config = record.at("config");
    require_input(before.config.is_object(), path.string(), ": config: expected an object");
    record.at("model").get_to(before.model);
    record.at("dataset").get_to(before.dataset);
    record.at("export").get_to(before.export_format);
    record.at("windows_done").get_to(progress_.windows_done);
    require_input(progress_.windows_done >= 0, path.string(), ": windows_done: expected a count");
    progress_.notes = record.at("notes");
    record.at("finished").get_to(progress_.finished);
  });
  std::string changed = differences(before.config, fingerprint.config);
  if (!changed.empty()) changed = "another config (" + changed + ")";
  const auto add = [&](const char* what) { changed += concat(changed.empty() ? "" : " and ", what); };
  if (before.model != fingerprint.model) add("another model");
  if (before.dataset != fingerprint.dataset) add("another dataset");
  if (progress_.finished && before.export_format != fingerprint.export_format)
    add(concat("another export (", before.export_format, ", and finished)").c_str());
  require_input(changed.empty(), folder_.parent_path().string(), ": holds a run with ", changed,
                "; choose another output_dir or delete this one");
}

void RunStore::write_progress(const Progress& progress) {
  const json record = {{"format", kFormat},
                       {"config", fingerprint_.config},
                       {"model", fingerprint_.model},
                       {"dataset", fingerprint_.dataset},
                       {"export", fingerprint_.export_format},
                       {"windows_done", progress.windows_done},
                       {"notes", progress.notes},
                       {"finished", progress.finished}};
  write_file(folder_ / kProgress, record.dump(1) + "\n");
  progress_ = progress;
}

// State of windows before and after the one that the record names, and everything once the run is finished.
void RunStore::remove_superseded() const {
  const fs::path current = state_path(progress_.windows_done);
  for (const fs::path& path : entries(folder_)) {
    const bool is_state = path.filename().string().starts_with(kStatePrefix);
    const bool is_block = path.filename() == kBlocks;
    if ((is_state && (progress_.finished || path != current)) || (is_block && progress_.finished)) remove_tree(path);
  }
}

fs::path RunStore::block_path(std::int64_t layer) const {
  return folder_ / kBlocks / numbered("block-", layer);
}
fs::path RunStore::state_path(std::int64_t windows_done) const {
  return folder_ / numbered(kStatePrefix, windows_done);
}

void RunStore::save_block(Context& ctx, std::int64_t layer, const HardBlock& block, DType stored) {
  require(!finished(), "store: a finished run takes no block");
  write_hard_block(ctx, block_path(layer), block, stored);
}

HardBlock RunStore::load_block(Context& ctx, const ModelConfig& config, std::int64_t layer, DType compute) const {
  return intact(folder_, [&] { return read_hard_block(ctx, block_path(layer), config, compute); });
}

void RunStore::save_window(Context& ctx, std::int64_t windows_done, const std::map<std::string, Tensor>& state,
                           const json& notes) {
  require(!finished() && windows_done > progress_.windows_done, "store: window ", windows_done, " after window ",
          progress_.windows_done, finished() ? " of a finished run" : "");
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : state) specs.push_back({name, tensor.dtype(), tensor.shape()});
  SafetensorsWriter writer(state_path(windows_done), std::move(specs));
  for (const auto& [name, tensor] : state) {
    std::vector<std::byte> bytes(std::size_t(tensor.bytes()));
    to_host_bytes(ctx, bytes, tensor);
    writer.write(name, bytes);
  }
  writer.finish();
  write_progress({windows_done, notes, false});
  remove_superseded();
}

std::map<std::string, Tensor> RunStore::load_state(Context& ctx) const {
  if (progress_.windows_done == 0 || finished()) return {};
  return intact(folder_, [&] {
    const SafetensorsFile file(state_path(progress_.windows_done));
    std::map<std::string, Tensor> state;
    for (const auto& [name, info] : file.tensors())
      state[name] = from_host_bytes(ctx, info.shape, info.dtype, file.bytes(name));
    return state;
  });
}

void RunStore::finish() {
  if (finished()) return;
  write_progress({progress_.windows_done, progress_.notes, true});
  remove_superseded();
}

}  // namespace cbq
