#include "core/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <set>

#include "core/hash.h"
#include "tests/error_text.h"
#include "tests/resident_memory.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void expect_error(const std::string& text, const std::string& part) {
  EXPECT_TRUE(contains(text, part)) << "instead: " << text;
}

TEST(ReadFile, ReadsWhatWasWritten) {
  const TempFolder folder;
  std::string contents(300'000, '\0');
  for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = char(i * 7);
  write_file(folder / "a", contents);
  EXPECT_EQ(read_file(folder / "a"), contents);
  EXPECT_EQ(read_file(folder / "a", 300'000), contents);
  write_file(folder / "a", "");
  EXPECT_EQ(read_file(folder / "a"), "");
  EXPECT_FALSE(read_file("/proc/self/status").empty());  // the system reports size 0
}

TEST(ReadFile, NamesPathAndReason) {
  const TempFolder folder;
  expect_error(error_text([&] { read_file(folder / "none"); }),
               (folder / "none").string() + ": cannot open for reading: No such file");
  expect_error(error_text([&] { read_file(folder.path()); }),
               folder.path().string() + ": expected a file, found a folder");
  write_file(folder / "a", "12345");
  expect_error(error_text([&] { read_file(folder / "a", 4); }), "at most 4 bytes are accepted, the file has 5");
  expect_error(error_text([&] { read_file("/dev/zero", 1000); }),
               "/dev/zero: at most 1000 bytes are accepted, the file has more");
}

TEST(MappedFile, ShowsTheFile) {
  const TempFolder folder;
  const std::string contents(100'000, 'x');
  write_file(folder / "a", contents);
  MappedFile file(folder / "a");
  ASSERT_EQ(file.bytes().size(), contents.size());
  for (std::int64_t begin : {0, 1, 4096, 5000}) {
    file.release(begin, 50'000);
    ASSERT_EQ(std::memcmp(file.bytes().data(), contents.data(), contents.size()), 0);
  }
  MappedFile moved(std::move(file));
  EXPECT_EQ(moved.bytes().size(), contents.size());
  EXPECT_TRUE(file.bytes().empty());
  write_file(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
  EXPECT_NE(error_text([&] { moved.release(99'999, 2); }, ErrorKind::failure).find("not inside"), std::string::npos);
  expect_error(error_text([&] { MappedFile{folder.path()}; }), "found a folder");
  expect_error(error_text([&] { MappedFile{"/dev/null"}; }), "expected a regular file");
  expect_error(error_text([&] { MappedFile{folder / "none"}; }), "No such file");
}

TEST(MappedFile, ReleaseGivesMemoryBack) {
  const TempFolder folder;
  constexpr std::int64_t kBytes = 32 << 20;
  write_file(folder / "a", std::string(kBytes, 'x'));
  const MappedFile file(folder / "a");
  const std::int64_t before = resident_file_bytes();
  EXPECT_NE(hash_bytes(file.bytes()), 0u);
  const std::int64_t touched = resident_file_bytes();
  ASSERT_GT(touched - before, kBytes / 2);
  file.release(0, kBytes);
  EXPECT_LT(resident_file_bytes() - before, kBytes / 8);
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TempFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write_at(0, bytes_of("new contents"));
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(folder.entries(), 2);
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(folder.entries(), 1);

  AtomicFile file(folder / "a"), second(folder / "a");  // two writers do not disturb each other
  second.write_at(0, bytes_of("second"));
  file.write_at(4, bytes_of("contents"));
  file.write_at(0, bytes_of("new "));
  file.commit();
  EXPECT_EQ(read_file(folder / "a"), "new contents");
  second.commit();
  EXPECT_EQ(read_file(folder / "a"), "second");
  EXPECT_EQ(folder.entries(), 1);
  EXPECT_NE(error_text([&] { file.write_at(0, {}); }, ErrorKind::failure).find("after the file was committed"),
            std::string::npos);
  EXPECT_NE(error_text([&] { file.commit(); }, ErrorKind::failure).find("twice"), std::string::npos);
}

TEST(AtomicFile, HasOrdinaryPermissions) {
  const TempFolder folder;
  const mode_t mask = umask(022);
  write_file(folder / "a", "x");
  umask(mask);
  EXPECT_EQ(std::filesystem::status(folder / "a").permissions(), std::filesystem::perms(0644));
}

TEST(AtomicFile, NamesPathAndReason) {
  const TempFolder folder;
  expect_error(error_text([&] { write_file(folder / "none" / "a", "x"); }), "No such file or directory");
  expect_error(error_text([&] { write_file(folder.path(), "x"); }), "found a folder");
  expect_error(error_text([&] { write_file("", "x"); }), "expected the name of a file");
  EXPECT_EQ(folder.entries(), 0);
}

TEST(WriteAll, SaysThatTheDiskIsFull) {
  const FileDescriptor full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  if (full.get() < 0) GTEST_SKIP() << "no /dev/full on this system";
  const std::string text = error_text([&] { write_all(full.get(), 0, bytes_of("x"), "out.bin"); }, ErrorKind::failure);
  EXPECT_EQ(text,
            "out.bin: cannot write: No space left on device; free disk space or choose another folder, then run again");
}

// The size limit of the process stands in for a disk that fills up in the middle of a file.
TEST(AtomicFile, LeavesNothingWhenWritingFails) {
  const TempFolder folder;
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old_limit;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string contents(200'000, 'x');
  const std::string write_text = error_text([&] { write_file(folder / "a", contents); }, ErrorKind::failure);
  const std::string reserve_text = error_text(
      [&] {
        AtomicFile file(folder / "a");
        file.reserve(200'000);
      },
      ErrorKind::failure);
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_TRUE(contains(write_text, "cannot write: File too large; raise the file size limit")) << write_text;
  EXPECT_TRUE(contains(reserve_text, "cannot reserve 200000 bytes: File too large")) << reserve_text;
  EXPECT_EQ(folder.entries(), 0);
}

TEST(Hash64, DependsOnEveryByteAndNotOnTheCuts) {
  std::string text(67, 'a');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = char('a' + i % 26);
  const std::uint64_t whole = hash_bytes(bytes_of(text));
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Hash64 hash;
    hash.update(text.substr(0, cut / 2));
    hash.update(text.substr(cut / 2, cut - cut / 2));
    hash.update(text.substr(cut));
    ASSERT_EQ(hash.digest(), whole) << cut;
  }
  std::set<std::uint64_t> seen = {whole, hash_bytes({})};
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = char(changed[i] ^ 1);
    seen.insert(hash_bytes(bytes_of(changed)));
    seen.insert(hash_bytes(bytes_of(text.substr(0, i + 1)).first(i)));
    seen.insert(hash_bytes(bytes_of(std::string(i + 1, '\0'))));
  }
  EXPECT_EQ(seen.size(), 2 + 3 * text.size() - 1);  // the empty prefix is there twice

  const TempFolder folder;
  write_file(folder / "a", text);
  EXPECT_EQ(hash_file(folder / "a"), whole);
  EXPECT_EQ(hash_text(0xab), "00000000000000ab");
}

}  // namespace
}  // namespace cbq
