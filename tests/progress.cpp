#include "core/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace cbq {
namespace {

// A stream into memory, a clock that the test sets, and a terminal of any width (0: none).
class Screen {
 public:
  explicit Screen(int columns) : columns_(columns), stream_(open_memstream(&buffer_, &size_)) {}
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() {
    std::fclose(stream_);
    std::free(buffer_);
  }

  std::FILE* stream() { return stream_; }
  ProgressEnvironment environment() {
    return {[this] { return now; }, [this] { return columns_; }};
  }
  void resize(int columns) { columns_ = columns; }
  // All that was written, cut at each mark; the text before the first one too.
  std::vector<std::string> split(char mark) {
    std::fflush(stream_);
    std::vector<std::string> parts(1);
    for (char c : std::string(buffer_, size_)) {
      if (c == mark)
        parts.emplace_back();
      else
        parts.back() += c;
    }
    return parts;
  }

  double now = 1000;

 private:
  int columns_;
  char* buffer_ = nullptr;
  std::size_t size_ = 0;
  std::FILE* stream_;
};

std::string trimmed(std::string text) {
  return text.substr(0, text.find_last_not_of(" \n") + 1);
}

// Code points of the text, without the line's end.
int columns_used(const std::string& text) {
  return int(std::count_if(text.begin(), text.end(), [](char c) { return c != '\n' && (c & 0xc0) != 0x80; }));
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0), "0.0 s");
  EXPECT_EQ(format_duration(4.2), "4.2 s");
  EXPECT_EQ(format_duration(59.94), "59.9 s");
  EXPECT_EQ(format_duration(59.96), "1 min 00 s");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_duration(3599.4), "59 min 59 s");
  EXPECT_EQ(format_duration(3599.6), "1 h 00 min");
  EXPECT_EQ(format_duration(3720), "1 h 02 min");
  EXPECT_EQ(format_duration(86399), "1 d 00 h");
  EXPECT_EQ(format_duration(190800), "2 d 05 h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, BytesAndCounts) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(9960), "10 kB");
  EXPECT_EQ(format_bytes(999'600), "1.0 MB");
  EXPECT_EQ(format_bytes(1'619'000'000), "1.6 GB");
  EXPECT_EQ(format_bytes(std::int64_t(5'000'000'000'000'000)), "5000 TB");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(356'316), "356 k");
  EXPECT_EQ(format_count(809'500'000), "810 M");
  EXPECT_EQ(format_count(6'738'000'000), "6.7 B");
}

TEST(Progress, PrintsPlainLinesWithoutATerminal) {
  Screen screen(0);
  {
    Progress progress(screen.stream(), "window 1", 100, screen.environment());
    for (int i = 0; i <= 60; ++i) {
      progress.update(i, "loss 0.5");
      screen.now += 0.2;
    }
    progress.finish("loss 0.25");
    progress.finish("again");
    progress.update(99, "again");
  }
  EXPECT_EQ(screen.split('\n'), (std::vector<std::string>{
                                    "window 1: 0/100 (0 %), loss 0.5",
                                    "window 1: 25/100 (25 %), loss 0.5, 15.0 s left, 5.0/s",
                                    "window 1: 50/100 (50 %), loss 0.5, 10.0 s left, 5.0/s",
                                    "window 1: 60/100 (60 %) in 12.2 s, loss 0.25",
                                    "",
                                }));
}

TEST(Progress, CountsTheRateFromTheFirstUpdate) {
  Screen screen(0);
  Progress progress(screen.stream(), "resumed", 1000, screen.environment());
  screen.now += 100;  // loading
  progress.update(900, "");
  screen.now += 40;
  progress.update(910, "");
  const auto lines = screen.split('\n');
  EXPECT_EQ(lines.at(0), "resumed: 900/1000 (90 %)");
  EXPECT_EQ(lines.at(1), "resumed: 910/1000 (91 %), 6 min 00 s left, 4.0 s each");
}

TEST(Progress, DrawsABarOnATerminal) {
  Screen screen(80);
  {
    Progress progress(screen.stream(), "window 1", 200, screen.environment());
    progress.update(0, "");
    screen.now += 10;
    progress.update(50, "loss 0.125");
    screen.now += 30;
    progress.update(200, "");
    progress.finish("");
  }
  const auto frames = screen.split('\r');
  ASSERT_EQ(frames.size(), 5u);
  EXPECT_EQ(trimmed(frames[1]), "window 1: [" + std::string(40, '-') + "] 0/200 (0 %)");
  EXPECT_EQ(trimmed(frames[2]), "window 1: [#####----------------] 50/200 (25 %), loss 0.125, 30.0 s left, 5.0/s");
  EXPECT_EQ(columns_used(frames[2]), 79);
  EXPECT_EQ(trimmed(frames[3]), "window 1: [" + std::string(40, '#') + "] 200/200 (100 %), 5.0/s");
  EXPECT_EQ(trimmed(frames[4]), "window 1: 200/200 (100 %) in 40.0 s");
  EXPECT_EQ(frames[4].back(), '\n');
}

TEST(Progress, RedrawsTenTimesASecond) {
  Screen screen(80);
  Progress progress(screen.stream(), "t", 1000, screen.environment());
  for (int i = 0; i < 1000; ++i) {
    progress.update(i, "");
    screen.now += 0.001;
  }
  const auto frames = screen.split('\r').size() - 1;
  EXPECT_GE(frames, 9u);
  EXPECT_LE(frames, 11u);
}

TEST(Progress, NeverFillsTheWidth) {
  for (int columns = 1; columns < 130; ++columns) {
    Screen screen(columns);
    Progress progress(screen.stream(), "wïndow", 3'000'000, screen.environment());
    for (std::int64_t done : {0, 1000, 2'999'999}) {
      progress.update(done, "löss 0.5\nnew\tline\x1b[2J");
      screen.now += 7;
    }
    progress.finish("done");
    std::string written;
    for (const std::string& frame : screen.split('\r')) {
      EXPECT_LT(columns_used(frame), columns) << frame;
      written += frame;
    }
    EXPECT_EQ(written.find('\x1b'), std::string::npos);
    EXPECT_EQ(std::count(written.begin(), written.end(), '\n'), 1);
  }
}

TEST(Progress, WipesALongerLine) {
  Screen screen(80);
  Progress progress(screen.stream(), "t", 0, screen.environment());
  progress.update(5, "a long text");
  screen.now += 1;
  progress.update(6, "");
  const auto frames = screen.split('\r');
  EXPECT_EQ(frames.at(1), "t: 5, a long text");
  EXPECT_EQ(frames.at(2), "t: 6, 1.0/s      ");
}

TEST(Progress, ClosesItsLineWhenAnErrorEndsTheJob) {
  Screen screen(80);
  { Progress(screen.stream(), "t", 10, screen.environment()).update(1, ""); }
  EXPECT_EQ(screen.split('\n').size(), 2u);
  { Progress(screen.stream(), "t", 10, screen.environment()); }
  EXPECT_EQ(screen.split('\n').size(), 2u);
}

TEST(Progress, AsksTheTerminalForItsWidth) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(environment_of(file).columns(), 0);
  const auto clock = environment_of(file).seconds;
  const double before = clock();
  EXPECT_GE(clock(), before);
  std::fclose(file);

  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) GTEST_SKIP() << "no pseudo-terminals here";
  std::FILE* screen = std::fopen(ptsname(terminal), "w");
  ASSERT_NE(screen, nullptr);
  winsize size{};
  size.ws_col = 47;
  ASSERT_EQ(ioctl(terminal, TIOCSWINSZ, &size), 0);
  EXPECT_EQ(environment_of(screen).columns(), 47);
  size.ws_col = 0;
  ASSERT_EQ(ioctl(terminal, TIOCSWINSZ, &size), 0);
  EXPECT_EQ(environment_of(screen).columns(), 80);
  std::fclose(screen);
  close(terminal);
}

}  // namespace
}  // namespace cbq
