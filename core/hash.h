// A 64-bit hash that tells whether bytes have changed. It is no protection against someone who wants a collision.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <span>
#include <sstream>
#include <string>
#include <string_view>

#include "core/files.h"

namespace cbq {

// Per 8-byte little-endian word w: h = rotl(h ^ (w * a), 29) * b with odd a, b, a bijection of h for each w, so two
// inputs that differ in one word never collide. The last word is padded with zeros; the length goes in at the end, then
// the finaliser of MurmurHash3 (Appleby 2011, fmix64). How the bytes are cut into updates does not matter.
class Hash64 {
 public:
  void update(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    if (held_ > 0) {
      const std::size_t taken = std::min(sizeof word_ - held_, bytes.size());
      hold(bytes.first(taken));
      bytes = bytes.subspan(taken);
      if (held_ < sizeof word_) return;
      hash_ = mixed(hash_, word_);
      held_ = word_ = 0;
    }
    std::uint64_t h = hash_;
    for (; bytes.size() >= sizeof word_; bytes = bytes.subspan(sizeof word_)) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data(), sizeof word);
      h = mixed(h, word);
    }
    hash_ = h;
    hold(bytes);
  }
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }

  std::uint64_t digest() const {
    std::uint64_t h = mixed(hash_, word_) ^ length_;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
  }

 private:
  static_assert(std::endian::native == std::endian::little, "words are read as little-endian");

  static std::uint64_t mixed(std::uint64_t h, std::uint64_t word) {
    return std::rotl(h ^ (word * 0x9e3779b97f4a7c15u), 29) * 0xd1342543de82ef95u;
  }
  void hold(std::span<const std::byte> bytes) {
    for (std::byte b : bytes) word_ |= std::uint64_t(b) << (8 * held_++);
  }

  std::uint64_t hash_ = 0x243f6a8885a308d3u;  // the first fraction bits of pi
  std::uint64_t word_ = 0, length_ = 0;       // bytes that do not fill a word yet; bytes seen in all
  std::size_t held_ = 0;                      // bytes in word_
};

inline std::uint64_t hash_bytes(std::span<const std::byte> bytes) {
  Hash64 hash;
  hash.update(bytes);
  return hash.digest();
}

// Reads the whole file, with at most 64 MiB of it in memory.
inline std::uint64_t hash_file(const std::filesystem::path& path) {
  constexpr std::int64_t kPart = std::int64_t(1) << 26;
  const MappedFile file(path);
  const std::int64_t count = std::ssize(file.bytes());
  Hash64 hash;
  for (std::int64_t begin = 0; begin < count; begin += kPart) {
    const std::int64_t part = std::min(kPart, count - begin);
    hash.update(file.bytes().subspan(std::size_t(begin), std::size_t(part)));
    file.release(begin, part);
  }
  return hash.digest();
}

// 16 lower-case hexadecimal digits, as files and reports hold it.
inline std::string hash_text(std::uint64_t digest) {
  std::ostringstream text;
  text << std::hex << std::setw(16) << std::setfill('0') << digest;
  return text.str();
}

}  // namespace cbq
