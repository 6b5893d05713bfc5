#include "core/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace cbq {

namespace {

// std::generic_category is safe in threads, strerror is not.
std::string system_text(int error) {
  return std::generic_category().message(error);
}

[[noreturn]] void fail_system(ErrorKind kind, const std::filesystem::path& path, const char* action, int error) {
  const char* advice = "";
  if (error == ENOSPC || error == EDQUOT) advice = "; free disk space or choose another folder, then run again";
  if (error == EFBIG) advice = "; raise the file size limit (ulimit -f) or choose another file system";
  fail(kind, path.string(), ": cannot ", action, ": ", system_text(error), advice);
}

struct stat status_of(int fd, const std::filesystem::path& path) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail_system(ErrorKind::failure, path, "read its size", errno);
  return status;
}

FileDescriptor open_for_reading(const std::filesystem::path& path) {
  FileDescriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) fail_system(ErrorKind::bad_input, path, "open for reading", errno);
  require_input(!S_ISDIR(status_of(fd.get(), path).st_mode), path.string(), ": expected a file, found a folder");
  return fd;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void sync(int fd, const std::filesystem::path& path) {
  // EINVAL: the file system has nothing to synchronise, such as some network folders.
  if (fsync(fd) != 0 && errno != EINVAL) fail_system(ErrorKind::failure, path, "write to disk (fsync)", errno);
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

int FileDescriptor::release() {
  return std::exchange(fd_, -1);
}

std::string read_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  const FileDescriptor fd = open_for_reading(path);
  const std::int64_t expected = status_of(fd.get(), path).st_size;
  require_input(expected <= max_bytes, path.string(), ": at most ", max_bytes, " bytes are accepted, the file has ",
                expected);
  std::string contents;
  contents.reserve(std::size_t(expected));
  std::array<char, 1 << 16> part;
  // Pipes and files of /proc report size 0, and a file can grow: the limit holds for what is really read.
  for (;;) {
    const ssize_t got = read(fd.get(), part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_system(ErrorKind::failure, path, "read", errno);
    if (got == 0) return contents;
    contents.append(part.data(), std::size_t(got));
    require_input(std::ssize(contents) <= max_bytes, path.string(), ": at most ", max_bytes,
                  " bytes are accepted, the file has more");
  }
}

void write_file(const std::filesystem::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write_at(0, std::as_bytes(std::span(contents)));
  file.commit();
}

void write_all(int fd, std::int64_t offset, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_system(ErrorKind::failure, path, "write", errno);
    offset += written;
    bytes = bytes.subspan(std::size_t(written));
  }
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const FileDescriptor fd = open_for_reading(path);
  const struct stat status = status_of(fd.get(), path);
  require_input(S_ISREG(status.st_mode), path.string(), ": expected a regular file, found a device or pipe");
  if (status.st_size == 0) return;  // nothing to map: mmap refuses a length of 0
  void* address = mmap(nullptr, std::size_t(status.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) fail_system(ErrorKind::failure, path, "map into memory", errno);
  bytes_ = {static_cast<const std::byte*>(address), std::size_t(status.st_size)};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, std::span<const std::byte>())) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::require_inside(const char* what, std::int64_t offset, std::int64_t count) const {
  require(offset >= 0 && count >= 0 && offset <= std::ssize(bytes_) && count <= std::ssize(bytes_) - offset, what,
          ": [", offset, ", +", count, ") is not inside the ", bytes_.size(), " bytes of the file");
}

void MappedFile::release(std::int64_t offset, std::int64_t count) const {
  require_inside("release", offset, count);
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  const std::int64_t begin = (offset + page - 1) / page * page, end = (offset + count) / page * page;
  // Advice only: when the system refuses it, the pages stay and nothing is wrong.
  if (begin < end) madvise(const_cast<std::byte*>(bytes_.data()) + begin, std::size_t(end - begin), MADV_DONTNEED);
}

ScratchFile::ScratchFile(const std::filesystem::path& folder, std::int64_t bytes) {
  std::string name = (folder / "scratch-XXXXXX").string();
  const FileDescriptor fd(mkostemp(name.data(), O_CLOEXEC));
  if (fd.get() < 0) fail_system(ErrorKind::bad_input, folder, "create a scratch file", errno);
  unlink(name.c_str());
  if (bytes == 0) return;
  // Space is claimed now: writing through a map to a full disk would end the program.
  if (const int error = posix_fallocate(fd.get(), 0, bytes); error != 0)
    fail_system(ErrorKind::failure, folder, "claim room for a scratch file", error);
  void* address = mmap(nullptr, std::size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (address == MAP_FAILED) fail_system(ErrorKind::failure, folder, "map a scratch file", errno);
  bytes_ = {static_cast<std::byte*>(address), std::size_t(bytes)};
}

ScratchFile::~ScratchFile() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code ignored;
  require_input(path_.has_filename() && !std::filesystem::is_directory(path_, ignored), path_.string(),
                ": expected the name of a file to write, found a folder");
  constexpr int kAttempts = 100;  // names left behind by killed processes that had the same process id
  for (int n = 0; n < kAttempts && fd_.get() < 0; ++n) {
    temporary_ = path_;
    temporary_ += concat(".tmp-", getpid(), "-", n);
    fd_ = FileDescriptor(open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (fd_.get() < 0 && errno != EEXIST) fail_system(ErrorKind::bad_input, temporary_, "create", errno);
  }
  require_input(fd_.get() >= 0, temporary_.string(), ": cannot create: ", kAttempts,
                " unfinished files of earlier runs are in the way; delete them");
}

AtomicFile::~AtomicFile() {
  if (fd_.get() >= 0) unlink(temporary_.c_str());
}

void AtomicFile::reserve(std::int64_t bytes) {
  if (bytes == 0 || fallocate(fd_.get(), 0, 0, bytes) == 0) return;
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
    const int error = errno;
    fail_system(ErrorKind::failure, path_, concat("reserve ", bytes, " bytes").c_str(), error);
  }
}

void AtomicFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  require(fd_.get() >= 0, path_.string(), ": cannot write after the file was committed");
  write_all(fd_.get(), offset, bytes, path_);
}

void AtomicFile::commit() {
  require(fd_.get() >= 0, path_.string(), ": cannot be committed twice");
  sync(fd_.get(), path_);
  // The rename comes before the close, so that a failure still leaves the temporary file to the destructor.
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_system(ErrorKind::failure, path_, "rename", errno);
  fd_ = FileDescriptor();
  const FileDescriptor folder(open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) sync(folder.get(), folder_of(path_));
}

}  // namespace cbq
