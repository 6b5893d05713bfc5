// Starts the built program as a child process.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace cbq {

class Program {
 public:
  // Runs CBQ_PROGRAM with the arguments; its two streams go to files in `folder`.
  Program(const std::filesystem::path& folder, std::vector<std::string> arguments) : folder_(folder) {
    arguments.insert(arguments.begin(), CBQ_PROGRAM);
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    child_ = fork();
    require(child_ >= 0, "fork failed");
    if (child_ == 0) {
      for (const auto& [fd, name] : {std::pair{STDOUT_FILENO, "stdout"}, {STDERR_FILENO, "stderr"}}) {
        const int file = open((folder_ / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || dup2(file, fd) < 0) _exit(126);
      }
      execv(CBQ_PROGRAM, argv.data());
      _exit(127);
    }
  }
  void send(int signal) const { kill(child_, signal); }
  // The exit code; minus the signal's number if one ended it.
  int wait() const {
    int status = 0;
    require(waitpid(child_, &status, 0) == child_, "waitpid failed");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string out() const { return read_file(folder_ / "stdout"); }
  std::string err() const { return read_file(folder_ / "stderr"); }

 private:
  std::filesystem::path folder_;
  pid_t child_ = -1;
};

}  // namespace cbq
