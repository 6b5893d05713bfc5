#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>

#include "core/json.h"
#include "quant/config.h"
#include "quant/export.h"

namespace cbq {

namespace {

// Whether the whole of `text` matches: * stands for any characters, ? for one. Linear in the product of the lengths.
bool matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, after_star = std::string_view::npos, star_end = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      after_star = ++p;
      star_end = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (after_star != std::string_view::npos) {
      p = after_star;
      t = ++star_end;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

// The layers that have a group size, and those of them that it does not divide.
struct GroupSizeUse {
  std::int64_t common_divisor = 0;  // of all inputs
  std::vector<std::string> undivided;
};

// The first names, and how many more there are.
std::string few(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) text += (i ? ", " : "") + names[i];
  return names.size() > kShown ? concat(text, " and ", names.size() - kShown, " more") : text;
}

// Divisors of n that kernels and readers of the format commonly take, the largest last.
std::string usual_divisors(std::int64_t n) {
  constexpr std::int64_t kSmallest = 16, kLargest = 1024;
  std::string text;
  for (std::int64_t d = kSmallest; d <= std::min(n, kLargest); ++d)
    if (n % d == 0 && d % 8 == 0) text += concat(text.empty() ? "" : ", ", d);
  return text;
}

void check_group_sizes(const std::map<std::int64_t, GroupSizeUse>& uses) {
  for (const auto& [group_size, use] : uses) {
    if (use.undivided.empty()) continue;
    const std::string divisors = usual_divisors(use.common_divisor);
    fail(ErrorKind::bad_input, "group_size: expected a divisor of the layers' inputs, found ", group_size, " for ",
         few(use.undivided), "; use ", divisors.empty() ? "" : divisors + " or ", "-1");
  }
}

void check_site(const ModelConfig& model, const BlockSpec& spec, std::int64_t layer, Site site) {
  const auto roles = linear_roles(model.family, site);
  for (LinearRole role : roles) {
    const int bits = spec[std::size_t(role)].activation.bits, first = spec[std::size_t(roles[0])].activation.bits;
    require_input(bits == first, "overrides: expected one abits for ", linear_name(model, layer, roles[0]), " and ",
                  linear_name(model, layer, role), ", which read the same input, found ", first, " and ", bits,
                  "; give both the same");
  }
}

}  // namespace

std::vector<BlockSpec> block_specs(const RunConfig& config, const ModelConfig& model) {
  LinearSpec absent;
  absent.weight.bits = 16;
  BlockSpec none;
  none.fill(absent);
  std::vector<BlockSpec> specs(std::size_t(model.layers), none);
  std::vector<bool> is_used(config.overrides.size());
  std::map<std::int64_t, GroupSizeUse> uses;

  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    for (LinearRole role : linear_roles(model.family)) {
      const std::string name = linear_name(model, layer, role);
      int wbits = config.wbits, abits = config.abits;
      std::int64_t group_size = config.group_size;
      bool sym = config.sym;
      for (std::size_t i = 0; i < config.overrides.size(); ++i) {
        const LayerOverride& override = config.overrides[i];
        if (!matches(override.match, name)) continue;
        is_used[i] = true;
        wbits = override.wbits.value_or(wbits);
        abits = override.abits.value_or(abits);
        group_size = override.group_size.value_or(group_size);
        sym = override.sym.value_or(sym);
      }
      specs[std::size_t(layer)][std::size_t(role)] = {
          {wbits, group_size, sym ? Symmetry::symmetric : Symmetry::asymmetric},
          {abits, config.act_sym ? Symmetry::symmetric : Symmetry::asymmetric}};
      if (wbits == 16 || group_size < 0) continue;
      const std::int64_t in = weight_shape(model, role)[1];
      GroupSizeUse& use = uses[group_size];
      use.common_divisor = std::gcd(use.common_divisor, in);
      if (in % group_size != 0) use.undivided.push_back(concat(name, " (", in, ")"));
    }

  for (std::size_t i = 0; i < is_used.size(); ++i)
    require_input(is_used[i], "overrides[", i, "]: expected a pattern that matches a layer, found ",
                  quoted_text(config.overrides[i].match), "; names look like ",
                  linear_name(model, 0, linear_roles(model.family).back()));
  check_group_sizes(uses);
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    for (Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out})
      check_site(model, specs[std::size_t(layer)], layer, site);
  require_exportable(config.exports, model, specs, config.kv_bits);
  return specs;
}

}  // namespace cbq
