#include <cmath>

#include "core/error.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

std::string result_table(const Json& report) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const std::string& key, const std::string& name, double bits, double bytes) {
    const auto cell = [&](const char* of, Unit unit) {
      return number_html(number_at(report, concat("results.", key, ".", of)), unit);
    };
    rows.push_back({name, cell("perplexity", Unit::plain), cell("kl", Unit::plain), cell("top1", Unit::ratio),
                    number_html(bits, Unit::plain, 4), number_html(bytes, Unit::bytes)});
  };
  const double bits = number_at(report, "size.bits_per_weight"), bytes = number_at(report, "size.bytes");
  add("full_precision", "Full precision", number_at(report, "size.stored_bits"),
      number_at(report, "size.source_bytes"));
  add("nearest", "Round to nearest", bits, bytes);
  add("quantised", "<strong>Quantised</strong>", bits, bytes);
  return table_html({"", "#Perplexity", "#KL, nats a token", "#Same top token", "#Bits a weight", "#Weight files"},
                    rows);
}

// Sizes of the other formats that the run wrote.
std::string other_exports(const Json& report) {
  std::string text;
  for (const Json& written : list_at(report, "size.exports"))
    text += concat(text.empty() ? " Weight files by format: " : ", ", escaped(text_at(written, "format")), " ",
                   number_html(number_at(written, "bytes"), Unit::bytes));
  return list_at(report, "size.exports").size() > 1 ? text + "." : "";
}

std::string lead(const Json& report) {
  const double kl = number_at(report, "results.quantised.kl"), nearest = number_at(report, "results.nearest.kl");
  if (std::isnan(kl)) return {};
  std::string text =
      concat("Perplexity ", number_html(number_at(report, "results.full_precision.perplexity"), Unit::plain),
             " becomes ", number_html(number_at(report, "results.quantised.perplexity"), Unit::plain), " at ",
             number_html(number_at(report, "size.bits_per_weight"), Unit::plain, 3), " bits a weight.");
  if (nearest > 0 && text_at(report, "config.method") != "rtn")
    text += concat(" Rounding to nearest with as many bits gives ",
                   number_html(number_at(report, "results.nearest.perplexity"), Unit::plain), "; the KL divergence is ",
                   number_html(kl / nearest, Unit::ratio), " of what it costs.");
  return element("p", text, "class=\"lead\"");
}

std::string texts(const Json& report) {
  std::string items;
  for (const Json& text : list_at(report, "texts")) {
    const std::string prompt = escaped(text_at(text, "prompt")), skipped = text_at(text, "skipped");
    if (!skipped.empty()) {
      items +=
          element("div", element("p", prompt) + element("p", "Not continued: " + escaped(skipped), "class=\"note\""));
      continue;
    }
    for (const auto& [key, name] : {std::pair("before", "Full precision"), std::pair("after", "Quantised")})
      items += element("div", element("span", name, "class=\"of\"") +
                                  element("blockquote", element("b", prompt) + escaped(text_at(text, key)))) +
               "\n";
  }
  if (items.empty()) return {};
  return element("h3", "The same prompts, before and after") + element("div", items, "class=\"texts\"");
}

}  // namespace

std::string result_section(const RunRecord& run) {
  const Json& report = run.report;
  const bool is_finished = report.contains("results");
  std::string text = element("h2", "Result");
  if (!is_finished)
    text += element("p",
                    concat("The run is not finished: ", run.windows.size(),
                           run.windows.size() == 1 ? " window is done." : " windows are done."),
                    "class=\"lead\"");
  else if (value_at(report, "results").empty())
    text += element("p", "Nothing was evaluated: the config names no text under eval.data.", "class=\"lead\"");
  else
    text +=
        lead(report) + result_table(report) +
        element("p",
                concat("Over ", number_html(number_at(report, "results.quantised.tokens"), Unit::count),
                       " tokens. KL and top token are held against full precision at every position. A weight's bits "
                       "are its integer and its share of step sizes and zero points, in the linear layers of the "
                       "blocks; embeddings and norms stay as they are.",
                       other_exports(report)),
                "class=\"note\"");
  return text + texts(report);
}

}  // namespace cbq
