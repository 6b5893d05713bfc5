// The table of formats.
#include <algorithm>
#include <array>
#include <system_error>

#include "quant/config_fields.h"
#include "quant/export.h"
#include "quant/export_format.h"
#include "quant/export_gguf.h"
#include "quant/gguf_scheme.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

std::string no_obstacle(const ModelConfig&, const std::vector<BlockSpec>&, int) {
  return "";
}

std::string gptq_obstacle(const ModelConfig& model, const std::vector<BlockSpec>& specs, int) {
  std::string obstacle;
  for_each_linear(model, specs, [&](const std::string& name, LinearRole role, const LinearSpec& spec) {
    const int bits = spec.weight.bits;
    const Shape shape = weight_shape(model, role);
    if (!obstacle.empty()) return;
    if (spec.activation.bits < 16) obstacle = concat("activations of ", spec.activation.bits, " bits (", name, ")");
    if (!spec.weight.quantised()) return;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) obstacle = concat("weights of ", bits, " bits (", name, ")");
    if (bits == 3 && (shape[0] % 32 != 0 || shape[1] % 32 != 0))
      obstacle = concat("weights of 3 bits whose sides are no multiples of 32 (", name, ", ", shape, ")");
  });
  return obstacle;
}

// What decides which programs run the quantised layers.
struct Schemes {
  bool all_int8 = true, all_4_or_8_bit = true, all_symmetric = true, quantised_activations = false;
};

Schemes schemes_of(const std::vector<BlockSpec>& specs) {
  Schemes s;
  for (const BlockSpec& block : specs)
    for (const LinearSpec& spec : block) {
      if (spec.activation.bits < 16) s.quantised_activations = true;
      if (!spec.weight.quantised()) continue;
      s.all_int8 = s.all_int8 && spec.weight.bits == 8 && spec.activation.bits == 8 && spec.weight.group_size < 0 &&
                   spec.weight.symmetry == Symmetry::symmetric;
      s.all_4_or_8_bit = s.all_4_or_8_bit && (spec.weight.bits == 4 || spec.weight.bits == 8);
      s.all_symmetric = s.all_symmetric && spec.weight.symmetry == Symmetry::symmetric;
    }
  return s;
}

std::string transformers_command(const fs::path& folder, const char* more = "") {
  return concat("python -c \"from transformers import *; AutoModelForCausalLM.from_pretrained('", folder.string(), "'",
                more, ")\"");
}

// docs/formats.md, "Who runs what".
Lines compressed_tensors_readers(const fs::path& folder, const std::vector<BlockSpec>& specs) {
  const Schemes s = schemes_of(specs);
  const bool is_marlin = !s.quantised_activations && s.all_4_or_8_bit, is_int8 = s.quantised_activations && s.all_int8;
  const bool is_served = is_marlin || is_int8 || s.all_symmetric;
  Lines lines = {is_marlin   ? "vLLM and SGLang with Marlin or Machete; groups of -1, 32, 64 or 128 columns"
                 : is_int8   ? "vLLM and SGLang with int8 matrix products"
                 : is_served ? "vLLM with the package humming"
                             : "no server: symmetric grids are needed for these widths"};
  lines.push_back(concat("transformers with compressed-tensors 0.18 or later",
                         s.all_symmetric ? "" : ", by CompressedTensorsConfig(dequantize=True)"));
  if (s.quantised_activations)
    lines.push_back("activations are quantised on the whole range of a token: see learn_activation in docs/formats.md");
  lines.push_back(is_served
                      ? concat("vllm serve ", folder.string())
                      : transformers_command(folder, ", quantization_config=CompressedTensorsConfig(dequantize=True)"));
  return lines;
}

Lines gptq_readers(const fs::path& folder, const std::vector<BlockSpec>& specs) {
  const Schemes s = schemes_of(specs);
  const bool is_served = s.all_4_or_8_bit && s.all_symmetric;
  return {is_served ? "vLLM and SGLang with Marlin or Machete; groups of -1, 32, 64 or 128 columns"
                    : "no server: they take symmetric grids of 4 and 8 bits only",
          "transformers with gptqmodel",
          is_served ? concat("vllm serve ", folder.string()) : transformers_command(folder)};
}

Lines dense_readers(const fs::path& folder, const std::vector<BlockSpec>& specs) {
  Lines lines = {"everything that reads the source model"};
  if (schemes_of(specs).quantised_activations) lines.push_back("activations are quantised by cbq alone");
  lines.push_back(concat("vllm serve ", folder.string()));
  return lines;
}

Lines gguf_readers(const fs::path& folder, const std::vector<BlockSpec>& specs) {
  Lines lines = {"llama.cpp and what is built on it"};
  if (holds_rounded_offsets(specs))
    lines.push_back(
        "offsets of asymmetric weights of 4 bits are rounded to f16: `cbq eval` gives the numbers of the file");
  lines.push_back(concat("llama-cli -m ", (folder / kGgufFile).string()));
  return lines;
}

template <std::unique_ptr<LayerFormat> (*make)()>
void write_with(Context& ctx, const ExportSource& source, const fs::path& folder, std::int64_t shard_bytes) {
  write_checkpoint(ctx, source, *make(), folder, shard_bytes);
}

void write_gptq(Context& ctx, const ExportSource& source, const fs::path& folder, std::int64_t shard_bytes) {
  write_checkpoint(ctx, source, *gptq_format(source.specs), folder, shard_bytes);
}

void write_gguf(Context& ctx, const ExportSource& source, const fs::path& folder, std::int64_t) {
  export_gguf(ctx, source, folder / kGgufFile);
}

constexpr std::array kFormats = {
    ExportFormat{Export::compressed_tensors, "compressed-tensors", no_obstacle, write_with<compressed_tensors_format>,
                 compressed_tensors_readers},
    ExportFormat{Export::gptq, "gptq", gptq_obstacle, write_gptq, gptq_readers},
    ExportFormat{Export::dense, "dense", no_obstacle, write_with<dense_format>, dense_readers},
    ExportFormat{Export::gguf, "gguf", gguf_obstacle, write_gguf, gguf_readers},
};

}  // namespace

std::span<const ExportFormat> export_formats() {
  return kFormats;
}

const ExportFormat& export_format(Export id) {
  const auto found = std::ranges::find(kFormats, id, &ExportFormat::id);
  require(found != kFormats.end(), "export: no format number ", int(id));
  return *found;
}

std::string export_text(Export id, const fs::path& folder, const std::vector<BlockSpec>& specs) {
  const ExportFormat& format = export_format(id);
  std::string text = concat("export   ", format.name, " in ", folder.string(), "\n");
  for (const std::string& line : format.readers(folder, specs)) text += "         " + line + "\n";
  return text;
}

void require_exportable(const std::vector<Export>& formats, const ModelConfig& model,
                        const std::vector<BlockSpec>& specs, int kv_bits) {
  for (const Export id : formats) {
    const std::string obstacle = export_format(id).obstacle(model, specs, kv_bits);
    if (obstacle.empty()) continue;
    std::vector<std::string> able;
    for (const ExportFormat& format : kFormats)
      if (format.obstacle(model, specs, kv_bits).empty()) able.push_back(format.name);
    fail(ErrorKind::bad_input, "export: ", export_format(id).name, " has no place for ", obstacle, "; use ",
         listed(able));
  }
}

fs::path export_folder(const fs::path& output, const std::vector<Export>& formats, std::size_t i) {
  return i == 0 ? output : output / export_format(formats.at(i)).name;
}

void export_model(Context& ctx, const ExportSource& source, Export format, const fs::path& folder,
                  std::int64_t shard_bytes) {
  std::error_code error;
  fs::create_directories(folder, error);
  require_input(!error, folder.string(), ": cannot create the folder: ", error.message(),
                "; make the folder above it writable or choose another");
  remove_earlier_export(folder);
  export_format(format).write(ctx, source, folder, shard_bytes);
}

}  // namespace cbq
