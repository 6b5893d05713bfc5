#include "quant/export.h"

#include <nlohmann/json.hpp>
#include <system_error>

#include "core/json.h"
#include "cpu/open.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace cbq {

namespace {

namespace fs = std::filesystem;

Export format_called(const std::string& name) {
  for (const ExportFormat& format : export_formats())
    if (name == format.name) return format.id;
  fail(ErrorKind::bad_input, "--format: no format is called ", quoted_text(name));
}

template <class Action>
void file_action(const fs::path& path, const char* what, const Action& action) {
  std::error_code error;
  action(error);
  require_input(!error, path.string(), ": cannot ", what, ": ", error.message(), "; choose another --out");
}

std::int64_t bytes_in(const fs::path& folder) {
  std::int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) bytes += std::int64_t(entry.file_size());
  return bytes;
}

}  // namespace

// The folder gets its name when it is whole.
void export_command(const ExportOptions& options) {
  const Export format = format_called(options.to);
  const ModelConfig config = read_model_config(options.model);
  const Checkpoint checkpoint(options.model);
  const std::unique_ptr<Context> ctx = cpu::open(options.threads);
  const ExportSource source = packed_blocks(*ctx, checkpoint, config);
  require_exportable({format}, config, source.specs, checkpoint.kv_bits());
  const fs::path out = fs::absolute(options.out.value_or(options.model / options.to)).lexically_normal();
  require_input(!fs::exists(out), out.string(),
                ": expected a new folder, found one; choose another --out or delete it");
  const fs::path partial = out.string() + ".partial";
  file_action(partial, "remove", [&](std::error_code& error) { fs::remove_all(partial, error); });
  export_model(*ctx, source, format, partial, options.max_shard_size);
  file_action(out, "rename", [&](std::error_code& error) { fs::rename(partial, out, error); });
  if (options.format == ResultFormat::json)
    print_json({{"model", options.model.string()},
                {"format", options.to},
                {"folder", out.string()},
                {"bytes", bytes_in(out)},
                {"readers", export_format(format).readers(out, source.specs)}});
  else
    print(export_text(format, out, source.specs));
}

}  // namespace cbq
