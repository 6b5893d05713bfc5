// Starts the built program as a child process.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace cbq {

// Where the child's standard output goes: a file in the folder, or a way for writing to fail.
enum class StandardOutput { file, full_disk, closed, pipe_without_reader };

class Program {
 public:
  // Runs CBQ_PROGRAM with the arguments; its two streams go to files in `folder`.
  Program(const std::filesystem::path& folder, std::vector<std::string> arguments,
          StandardOutput output = StandardOutput::file)
      : folder_(folder) {
    write_file(folder_ / "stdout", "");
    arguments.insert(arguments.begin(), CBQ_PROGRAM);
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    std::array<int, 2> pipe_ends{};
    require(pipe(pipe_ends.data()) == 0, "pipe failed");
    close(pipe_ends[0]);  // nobody reads
    child_ = fork();
    require(child_ >= 0, "fork failed");
    if (child_ == 0) {
      redirect(STDERR_FILENO, folder_ / "stderr");
      redirect(STDOUT_FILENO, output == StandardOutput::full_disk ? "/dev/full" : folder_ / "stdout");
      if (output == StandardOutput::closed) close(STDOUT_FILENO);
      if (output == StandardOutput::pipe_without_reader) dup2(pipe_ends[1], STDOUT_FILENO);
      execv(CBQ_PROGRAM, argv.data());
      _exit(127);
    }
    close(pipe_ends[1]);
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
  static void redirect(int fd, const std::filesystem::path& path) {
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || dup2(file, fd) < 0) _exit(126);
  }

  std::filesystem::path folder_;
  pid_t child_ = -1;
};

}  // namespace cbq
