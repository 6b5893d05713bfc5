// Progress of a long job: a bar on a terminal, a plain line now and then elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

namespace cbq {

// "4.2 s", "3 min 20 s", "1 h 02 min", "2 d 05 h"; "?" for a negative or non-finite number.
std::string format_duration(double seconds);
// Decimal units: "512 B", "1.6 GB".
std::string format_bytes(std::int64_t bytes);
// "999", "356 k", "6.7 M", "1.3 B" (10^9), "2.0 T".
std::string format_count(std::int64_t count);

// What the display asks of its surroundings. Tests put their own functions here.
struct ProgressEnvironment {
  std::function<double()> seconds;  // a clock that never goes back; its zero does not matter
  std::function<int()> columns;     // width of the terminal; 0: not a terminal
};

// The steady clock and the terminal behind the stream, asked again at each redraw: windows change their size.
ProgressEnvironment environment_of(std::FILE* stream);

// On a terminal one line is redrawn at most 10 times a second and never fills the width, so that it cannot wrap.
// Elsewhere a line is printed for the first update, then at most every 5 s, and at the end. Rate and remaining time are
// averages since the first update, so a resumed job calls update(done so far) before it works.
class Progress {
 public:
  // total: units of the whole job; 0 when unknown. The stream must outlive this object.
  Progress(std::FILE* stream, std::string title, std::int64_t total);
  Progress(std::FILE* stream, std::string title, std::int64_t total, ProgressEnvironment environment);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Ends a line that is still open, so that whatever comes next, such as an error, has a line of its own.
  ~Progress();

  // done: units finished so far. text: what else is worth seeing, such as the loss; one line of UTF-8.
  void update(std::int64_t done, const std::string& text);
  // Prints the last line whatever the time. Later calls do nothing.
  void finish(const std::string& text);

 private:
  double share() const;  // of the job that is done, 0 to 1
  std::string count_text() const;
  std::string bar(int columns) const;
  void show(const std::string& status, int columns);

  std::FILE* stream_;
  std::string title_;
  std::int64_t total_, done_ = 0, first_done_ = 0;
  ProgressEnvironment environment_;
  double begin_, first_update_ = 0, last_shown_ = 0;  // seconds
  enum class State { waiting, running, finished } state_ = State::waiting;
  bool line_is_open_ = false;
  int shown_columns_ = 0;  // of the line that is open
};

}  // namespace cbq
