// The program `cbq`. Exit codes: 0 done, 1 the work failed, 2 the input is at fault.
#include <CLI/CLI.hpp>
#include <iostream>
#include <new>

#include "core/json.h"
#include "core/version.h"
#include "cpu/libraries.h"
#include "tools/command_line.h"
#include "tools/output.h"

namespace {

using namespace cbq;

// An error is one line whatever is in it.
int report(std::string text, int exit_code) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  std::cerr << "cbq: error: " << text << std::endl;
  return exit_code;
}

int run_command_line(int argc, char** argv) {
  CommandOptions options;
  CLI::App app("Quantises LLaMA- and OPT-family language models by cross-block reconstruction.", "cbq");
  app.set_version_flag("--version", concat("cbq ", program_version(), " (", program_commit(), ")"));
  app.require_subcommand(1);
  add_commands(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print(app.help());
  } catch (const CLI::CallForVersion& version) {
    print(std::string(version.what()) + "\n");
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    if (!chosen.empty()) return report(concat(error.what(), "; see cbq ", chosen[0]->get_name(), " --help"), 2);
    return report(concat("expected a command, found ", argc > 1 ? quoted_text(argv[1]) : "none", "; see cbq --help"),
                  2);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  cpu::prepare_libraries(argv);
  prepare_standard_streams();
  try {
    return run_command_line(argc, argv);
  } catch (const Error& error) {
    return report(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return report("out of memory; use fewer or shorter samples, or a machine with more", 1);
  } catch (const std::exception& error) {
    return report(concat("unexpected: ", error.what()), 1);
  } catch (...) {
    return report("unexpected failure", 1);
  }
}
