#include "core/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdlib>
#include <utility>

#include "core/error.h"

namespace cbq {

namespace {

constexpr double kTerminalInterval = 0.1, kPlainInterval = 5;  // seconds between two displays
constexpr int kWidestBar = 40, kNarrowestBar = 8;              // columns

__attribute__((format(printf, 1, 2))) std::string print(const char* format, ...) {
  std::array<char, 64> text;  // numbers and units only
  va_list values;
  va_start(values, format);
  std::vsnprintf(text.data(), text.size(), format, values);
  va_end(values);
  return text.data();
}

// Three significant digits at most: 1.0 to 9.9, then 10 to 999.
std::string scaled(double value, const std::array<const char*, 5>& units) {
  std::size_t unit = 0;
  for (; unit + 1 < units.size() && std::round(value) >= 1000; ++unit) value /= 1000;
  const bool has_decimal = unit > 0 && value < 9.95;
  return print(has_decimal ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
}

// One column per code point. Wide East Asian characters are not expected in progress texts.
int columns_of(const std::string& text) {
  return int(std::count_if(text.begin(), text.end(), starts_character));
}

std::string cut_to_columns(const std::string& text, int columns) {
  int used = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (starts_character(text[i]) && ++used > columns) return text.substr(0, i);
  return text;
}

// Control characters would move the cursor.
std::string on_one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  return text;
}

std::string joined(const std::string& a, const std::string& b) {
  return a.empty() || b.empty() ? a + b : a + ", " + b;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || !(seconds < 1e12)) return "?";
  if (seconds < 59.95) return print("%.1f s", seconds);
  const auto total = std::llround(seconds), minutes = std::llround(seconds / 60), hours = std::llround(seconds / 3600);
  if (total < 3600) return print("%lld min %02lld s", total / 60, total % 60);
  if (minutes < 24 * 60) return print("%lld h %02lld min", minutes / 60, minutes % 60);
  return print("%lld d %02lld h", hours / 24, hours % 24);
}

std::string format_bytes(std::int64_t bytes) {
  return scaled(double(bytes), {" B", " kB", " MB", " GB", " TB"});
}

std::string format_count(std::int64_t count) {
  return scaled(double(count), {"", " k", " M", " B", " T"});
}

ProgressEnvironment environment_of(std::FILE* stream) {
  const auto seconds = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const auto columns = [fd = fileno(stream)] {
    constexpr int kUsualWidth = 80;  // for terminals that do not know their size
    if (fd < 0 || isatty(fd) == 0) return 0;
    winsize size{};
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? int(size.ws_col) : kUsualWidth;
  };
  return {seconds, columns};
}

Progress::Progress(std::FILE* stream, std::string title, std::int64_t total)
    : Progress(stream, std::move(title), total, environment_of(stream)) {}

Progress::Progress(std::FILE* stream, std::string title, std::int64_t total, ProgressEnvironment environment)
    : stream_(stream),
      title_(on_one_line(std::move(title))),
      total_(total),
      environment_(std::move(environment)),
      begin_(environment_.seconds()) {}

Progress::~Progress() {
  if (line_is_open_) std::fputc('\n', stream_);
}

void Progress::update(std::int64_t done, const std::string& text) {
  if (state_ == State::finished) return;
  done_ = done;
  const double now = environment_.seconds();
  const bool is_first = state_ == State::waiting;
  if (is_first) {
    state_ = State::running;
    first_done_ = done;
    first_update_ = now;
  }
  const int columns = environment_.columns();
  if (!is_first && now - last_shown_ < (columns > 0 ? kTerminalInterval : kPlainInterval)) return;
  last_shown_ = now;

  const double elapsed = now - first_update_, rate = elapsed > 0 ? double(done_ - first_done_) / elapsed : 0;
  std::string status = joined(count_text(), on_one_line(text));
  if (rate > 0 && done_ < total_) status = joined(status, format_duration(double(total_ - done_) / rate) + " left");
  if (rate > 0) status = joined(status, rate >= 1 ? print("%.1f/s", rate) : format_duration(1 / rate) + " each");
  show(bar(columns - 1 - columns_of(title_) - columns_of(status)) + status, columns);
}

void Progress::finish(const std::string& text) {
  if (state_ == State::finished) return;
  state_ = State::finished;
  const std::string status = count_text() + " in " + format_duration(environment_.seconds() - begin_);
  show(concat(" ", joined(status, on_one_line(text))), environment_.columns());
  if (line_is_open_) std::fputc('\n', stream_);
  std::fflush(stream_);
  line_is_open_ = false;
}

double Progress::share() const {
  return total_ > 0 ? std::clamp(double(done_) / double(total_), 0.0, 1.0) : 0;
}

std::string Progress::count_text() const {
  if (total_ <= 0) return std::to_string(done_);
  // Rounded down: 100 % is said of a whole job only.
  return std::to_string(done_) + "/" + std::to_string(total_) + print(" (%d %%)", int(std::floor(100 * share())));
}

std::string Progress::bar(int columns) const {
  const int cells = std::min(columns - int(std::string(" [] ").size()) - 1, kWidestBar);  // 1: the colon of the title
  if (total_ <= 0 || cells < kNarrowestBar) return " ";
  const int filled = int(std::floor(share() * cells));
  return " [" + std::string(std::size_t(filled), '#') + std::string(std::size_t(cells - filled), '-') + "] ";
}

void Progress::show(const std::string& status, int columns) {
  std::string line = title_ + ":" + status;
  if (columns > 0) {
    // The last column stays free: some terminals wrap as soon as it is written. Spaces wipe what was there before,
    // which needs no escape sequence.
    line = cut_to_columns(line, columns - 1);
    const int spaces = std::max(shown_columns_ - columns_of(line), 0);
    shown_columns_ = columns_of(line);
    line = concat("\r", cut_to_columns(line + std::string(std::size_t(spaces), ' '), columns - 1));
  } else {
    line += '\n';
  }
  line_is_open_ = columns > 0;
  std::fputs(line.c_str(), stream_);
  std::fflush(stream_);
}

}  // namespace cbq
