// Reading, mapping and atomically writing whole files. Every error names the path and what the system said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace cbq {

// Owns a POSIX file descriptor; -1 is none.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  // Gives the descriptor away without closing it.
  int release();

 private:
  int fd_;
};

// The whole file. Error bad_input: it cannot be opened, is a folder, or holds more than max_bytes bytes.
std::string read_file(const std::filesystem::path& path,
                      std::int64_t max_bytes = std::numeric_limits<std::int64_t>::max());

// Replaces the file in one step: a reader sees the old contents or the new ones, never a part (see AtomicFile).
void write_file(const std::filesystem::path& path, std::string_view contents);

// Writes all bytes at the byte offset, in as many system calls as it takes. path is only for the error, which says
// what to do when the disk is full. Errors: failure.
void write_all(int fd, std::int64_t offset, std::span<const std::byte> bytes, const std::filesystem::path& path);

// A regular file mapped for reading. Pages are read from disk when they are first touched. The file must not be
// shortened while it is mapped: the system answers the next touch with SIGBUS, which ends the program.
class MappedFile {
 public:
  // Errors: bad_input when the path cannot be opened or is no regular file.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  // Drops the pages that lie wholly inside [offset, offset + count) from this process; they come back when touched.
  void release(std::int64_t offset, std::int64_t count) const;

 private:
  void require_inside(const char* what, std::int64_t offset, std::int64_t count) const;

  std::span<const std::byte> bytes_;
};

// A file without a name, mapped for reading and writing: memory that the system may move to disk. It vanishes with the
// process, however that ends.
class ScratchFile {
 public:
  // Errors: bad_input when the folder cannot be written; failure when the disk has no room for `bytes`.
  ScratchFile(const std::filesystem::path& folder, std::int64_t bytes);
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile();
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

// A file that appears under its name only when it is whole. Bytes go to <path>.tmp-<pid>-<n> beside it; commit() makes
// them durable and renames. Destroyed without commit(), it removes the temporary file. A killed process leaves it.
class AtomicFile {
 public:
  // Errors: bad_input when the folder does not exist or cannot be written, or path is a folder.
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  // Claims the disk space of the whole file, so that a full disk shows before the work; does nothing on file systems
  // that cannot claim space. The file then has at least this size.
  void reserve(std::int64_t bytes);
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);
  // fsync, rename, fsync of the folder. Nothing can be written afterwards.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  FileDescriptor fd_;
};

}  // namespace cbq
