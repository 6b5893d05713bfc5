// Ctrl-C and SIGTERM as a request that long commands can look at.
#pragma once

#include <chrono>
#include <csignal>
#include <stop_token>
#include <thread>

namespace cbq {

// The only thing that the signal handler touches.
inline volatile std::sig_atomic_t is_interrupted = 0;

// Turns the first SIGINT or SIGTERM into a request to stop; the second ends the program as usual. A handler and not
// sigwait(): the signal may reach a thread that a library started before main, where it would not be blocked.
class Interrupts {
 public:
  Interrupts() {
    struct sigaction action {};
    action.sa_handler = [](int) { is_interrupted = 1; };
    action.sa_flags = SA_RESETHAND | SA_RESTART;
    for (int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
    watcher_ = std::jthread([this](const std::stop_token& ended) {
      while (!ended.stop_requested() && !is_interrupted) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (is_interrupted) stop_.request_stop();
    });
  }
  std::stop_token token() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  std::jthread watcher_;  // last: it uses the other
};

}  // namespace cbq
