#include "core/json.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace cbq {

namespace {

using nlohmann::json;

// Walks the text and tells a shared pointer how far the parser has read: its events carry no positions.
struct Reader {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** read_to;

  reference operator*() const { return *at; }
  Reader& operator++() {
    *read_to = ++at;
    return *this;
  }
  friend bool operator==(const Reader& a, const Reader& b) { return a.at == b.at; }
};

// Builds the value from the parser's events, so that duplicate keys and deep nesting are seen while reading.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, const std::string& file_name)
      : text_(text), name_(file_name), read_to_(text.data()), next_(&root_) {}

  json take() { return std::move(root_); }
  Reader reader(const char* at) { return {at, &read_to_}; }

  bool null() override { return place(nullptr); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(number_integer_t value) override { return place(value); }
  bool number_unsigned(number_unsigned_t value) override { return place(value); }
  bool number_float(number_float_t value, const string_t&) override { return place(value); }
  bool string(string_t& value) override { return place(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // exists in binary formats only
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    const auto [entry, is_new] = open_.back()->emplace(key, nullptr);
    if (!is_new) fail_at(read_to_, concat("expected each key once, found ", quoted_text(key), " again"));
    next_ = &*entry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // The library's text is "[id] parse error at line 1, column 2: what" or "[id] what".
    std::string_view what = error.what();
    what.remove_prefix(std::min(what.find("] ") + 2, what.size()));
    if (what.starts_with("parse error at")) what.remove_prefix(std::min(what.find(": ") + 2, what.size()));
    constexpr std::size_t kLongest = 200;  // it quotes the last token, which may be the whole file
    std::string shown(what.substr(0, kLongest));
    for (char& c : shown)
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
    if (what.size() > kLongest) shown += "...";
    fail_at(text_.data() + std::min(position, text_.size()), shown);
  }

 private:
  template <class Value>
  json* add(Value&& value) {
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(std::forward<Value>(value));
      return &open_.back()->back();
    }
    *next_ = std::forward<Value>(value);
    return next_;
  }

  template <class Value>
  bool place(Value&& value) {
    add(json(std::forward<Value>(value)));
    return true;
  }

  bool open(json container) {
    if (std::ssize(open_) == kMaxJsonDepth)
      fail_at(read_to_, concat("expected at most ", kMaxJsonDepth, " levels of nesting, found more"));
    open_.push_back(add(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // read_to is one past the character at fault.
  [[noreturn]] void fail_at(const char* read_to, const std::string& what) const {
    const std::string_view before =
        text_.substr(0, std::size_t(std::max(read_to, text_.data() + 1) - text_.data() - 1));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
    fail(ErrorKind::bad_input, name_, ":", line, ":", before.size() - line_begin + 1, ": ", what);
  }

  std::string_view text_;
  const std::string& name_;
  const char* read_to_;
  json root_;
  json* next_;               // where the next value goes when no array is open
  std::vector<json*> open_;  // the containers around the next value, outermost first
};

}  // namespace

json parse_json_text(std::string_view text, const std::string& name) {
  require_input(!text.empty(), name, ":1:1: expected JSON, found nothing");
  Builder builder(text, name);
  json::sax_parse(builder.reader(text.data()), builder.reader(text.data() + text.size()), &builder);
  return builder.take();
}

json parse_json_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  return parse_json_text(read_file(path, max_bytes), path.string());
}

std::string quoted_text(std::string_view text) {
  constexpr std::size_t kLongest = 120;  // longer than any tensor name or config key seen in published checkpoints
  const std::string dots = text.size() > kLongest ? "..." : "";
  return json(std::string(text.substr(0, kLongest)) + dots).dump(-1, ' ', true, json::error_handler_t::replace);
}

}  // namespace cbq
