#include "quant/report/html.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/progress.h"

namespace cbq {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes of the UTF-8 sequence at the start of `text`, 0 where it is none (RFC 3629).
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned lead = byte(0), second = byte(1);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool overlong = lead == 0xE0 && second < 0xA0, surrogate = lead == 0xED && second > 0x9F;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool overlong = lead == 0xF0 && second < 0x90, too_large = lead == 0xF4 && second > 0x8F;
    return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

std::string printed(const char* format, int digits, double value) {
  std::array<char, 400> text{};  // the longest double has 309 digits before the point
  std::snprintf(text.data(), text.size(), format, digits, value);
  return text.data();
}

// Fixed notation where that is readable, else an exponent.
std::string significant(double value, int digits) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 1e-4 || size >= 1e7) return printed("%.*e", digits - 1, value);
  const int before = int(std::floor(std::log10(size))) + 1;  // digits before the point; of 0.02: -1
  return printed("%.*f", std::max(0, digits - before), value);
}

// Thin spaces between groups of three digits, of numbers with more than four.
std::string grouped(std::string digits) {
  constexpr std::string_view kThinSpace = "\u202F";
  const std::size_t begin = digits.starts_with('-') ? 1 : 0;
  if (digits.size() - begin <= 4) return digits;
  for (std::size_t at = digits.size() - 3; at > begin && at < digits.size(); at -= 3) digits.insert(at, kThinSpace);
  return digits;
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    const char c = text[0];
    const bool is_control = (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f;
    if (length == 0 || is_control)
      result += kReplacement;
    else if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '"')
      result += "&quot;";
    else if (c == '\'')
      result += "&#39;";
    else
      result += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

std::string number_text(double value, Unit unit, int digits) {
  if (!std::isfinite(value)) return std::isnan(value) ? "–" : value > 0 ? "∞" : "−∞";
  switch (unit) {
    case Unit::plain: return significant(value, digits);
    case Unit::ratio: {
      const bool is_round = digits <= 2 && std::abs(100 * value - std::round(100 * value)) < 1e-9;  // along an axis
      return printed("%.*f %%", is_round ? 0 : std::abs(value) < 0.1 ? 2 : 1, 100 * value);
    }
    case Unit::bytes: return format_bytes(std::int64_t(value));
    case Unit::seconds: return value >= 0 && value < 1 ? significant(value, 2) + " s" : format_duration(value);
    case Unit::count: return grouped(printed("%.*f", 0, value));
  }
  return {};
}

std::string number_html(double value, Unit unit, int digits) {
  if (std::isnan(value)) return "–";
  std::array<char, 40> exact{};  // the shortest text that reads back as the same double
  const auto end = std::to_chars(exact.data(), exact.data() + exact.size(), value).ptr;
  return element("data", escaped(number_text(value, unit, digits)), "value=\"" + std::string(exact.data(), end) + "\"");
}

std::string element(std::string_view name, std::string_view content, std::string_view attributes) {
  std::string text = "<";
  text += name;
  if (!attributes.empty()) text.append(" ").append(attributes);
  text.append(">").append(content).append("</").append(name).append(">");
  return text;
}

std::string table_html(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  const auto is_number = [&](std::size_t c) { return head[c].starts_with('#'); };
  const auto attributes = [&](std::size_t c) { return is_number(c) ? "class=\"n\"" : ""; };
  std::string cells;
  for (std::size_t c = 0; c < head.size(); ++c)
    cells += element("th", head[c].substr(is_number(c) ? 1 : 0), attributes(c));
  std::string text = element("thead", element("tr", cells)), body;
  for (const auto& row : rows) {
    cells.clear();
    for (std::size_t c = 0; c < row.size(); ++c)
      cells += c == 0 ? element("th", row[c]) : element("td", row[c], attributes(c));
    body += element("tr", cells) + "\n";
  }
  return element("div", element("table", text + "\n" + element("tbody", body)), "class=\"wide\"") + "\n";
}

}  // namespace cbq
