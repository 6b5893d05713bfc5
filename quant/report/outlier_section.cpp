#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

struct SiteOfBlock {
  std::int64_t layer;
  const Json* site;
};

std::string spoken(const std::string& site) {
  static const std::map<std::string, std::string> kNames = {{"attention_in", "what q, k and v read"},
                                                            {"attention_out", "what the attention output reads"},
                                                            {"mlp_in", "what the feed-forward reads"},
                                                            {"mlp_out", "what the down projection reads"}};
  const auto name = kNames.find(site);
  return name == kNames.end() ? site : name->second;
}

std::vector<const Json*> entered_blocks(const RunRecord& run) {
  std::vector<const Json*> blocks;
  for (const Json& window : run.windows)
    for (const Json& block : list_at(window, "entered")) blocks.push_back(&block);
  return blocks;
}

// The channels of the block in which scaling changed most.
std::string channel_chart(const std::string& name, const std::vector<SiteOfBlock>& sites) {
  const auto gain = [](const SiteOfBlock& s) {
    const double ratio = number_at(*s.site, "largest_before") / number_at(*s.site, "largest_after");
    return std::isfinite(ratio) ? ratio : 0;
  };
  const SiteOfBlock& most = *std::ranges::max_element(sites, {}, gain);
  const double channels = number_at(*most.site, "channels");
  const auto channel_points = [&](std::string_view key) {
    const Json& bins = list_at(*most.site, key);
    std::vector<Point> points;
    for (std::size_t b = 0; b < bins.size(); ++b)
      points.push_back(
          {channels * double(b) / double(bins.size()), bins[b].is_number() ? bins[b].get<double>() : std::nan("")});
    return points;
  };
  const std::string title = concat("Channels of ", spoken(name), ", block ", most.layer, ": ",
                                   number_text(number_at(*most.site, "scaled"), Unit::count), " of ",
                                   number_text(channels, Unit::count), " scaled");
  return draw(LineChart{title,
                        {"channel", Scale::linear, Unit::count},
                        {"largest magnitude", Scale::size, Unit::plain},
                        {{"before", 1, channel_points("before")}, {"after", 0, channel_points("after")}}});
}

std::string largest_chart(const std::string& name, const std::vector<SiteOfBlock>& sites) {
  Series before{"before", 1, {}}, after{"after", 0, {}};
  for (const SiteOfBlock& s : sites) {
    before.points.push_back({double(s.layer), number_at(*s.site, "largest_before")});
    after.points.push_back({double(s.layer), number_at(*s.site, "largest_after")});
  }
  return draw(LineChart{"Largest channel of " + spoken(name),
                        {"block", Scale::index, Unit::count},
                        {"magnitude", Scale::log},
                        {before, after}});
}

std::string weight_table(const std::vector<const Json*>& blocks) {
  std::vector<std::vector<std::string>> rows;
  double found = 0;
  for (const Json* block : blocks)
    for (const Json& linear : list_at(*block, "linears")) {
      const double outliers = number_at(linear, "outliers");
      if (!(outliers > 0)) continue;
      found += outliers;
      rows.push_back(
          {concat(number_text(number_at(*block, "layer"), Unit::count), " ", escaped(text_at(linear, "name"))),
           number_html(outliers, Unit::count), number_html(outliers / number_at(linear, "weights"), Unit::ratio),
           number_html(number_at(linear, "largest"), Unit::plain),
           number_html(number_at(linear, "kept"), Unit::plain)});
    }
  if (rows.empty()) return element("p", "No weight was truncated.", "class=\"note\"");
  return element(
      "details",
      element("summary", concat(number_html(found, Unit::count), " outlying weights truncated, in ", rows.size(),
                                rows.size() == 1 ? " layer" : " layers")) +
          table_html({"Block and layer", "#Weights truncated", "#of all", "#Largest before", "#after"}, rows));
}

}  // namespace

std::string outlier_section(const RunRecord& run) {
  const auto blocks = entered_blocks(run);
  if (blocks.empty()) return {};
  std::vector<std::string> names;
  std::map<std::string, std::vector<SiteOfBlock>> sites;
  double scaled = 0;
  for (const Json* block : blocks)
    for (const Json& site : list_at(*block, "sites")) {
      const std::string name = text_at(site, "name");
      if (!sites.contains(name)) names.push_back(name);
      sites[name].push_back({std::int64_t(std::clamp(number_at(*block, "layer"), 0.0, 1e6)), &site});
      if (const double count = number_at(site, "scaled"); count > 0) scaled += count;
    }
  std::string figures;
  for (const std::string& name : names) figures += channel_chart(name, sites[name]) + largest_chart(name, sites[name]);
  return element("h2", "Outliers") +
         element(
             "p",
             concat(
                 "Preprocessing scaled ", number_html(scaled, Unit::count),
                 " activation channels; the layer before absorbs the scale. Of each kind the block is shown in which "
                 "it changed most; channels next to each other share a point, which is the largest of them."),
             "class=\"note\"") +
         chart_grid(figures) + weight_table(blocks);
}

}  // namespace cbq
