#include "quant/run.h"

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "quant/cross_block.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/output.h"

namespace cbq {

namespace {

// The only thing that a signal handler may touch.
volatile std::sig_atomic_t is_interrupted = 0;

// Turns the first SIGINT or SIGTERM into a request to stop; the second ends the program as usual.
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

}  // namespace

void run_command(const RunOptions& options) {
  const RunConfig config = read_run_config(options.config, options.settings);
  const Interrupts interrupts;
  const std::unique_ptr<Context> ctx = open_device({config.device, config.threads});
  try {
    const nlohmann::ordered_json report = run(*ctx, config, stderr, interrupts.token());
    if (options.format == ResultFormat::json) {
      print_json(report);
    } else {
      print_results(report, stdout);
      print("");  // shows whether the table could be written
    }
  } catch (const Interrupted&) {
    fail(ErrorKind::failure, "run: interrupted; the state is saved, the same command goes on from there");
  }
}

}  // namespace cbq
