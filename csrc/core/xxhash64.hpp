// XXH64 of bytes that come piece by piece: tells damaged bytes from whole ones at memory speed. Not a defence against
// people. Source: xxHash fast digest algorithm, specification 0.1.1, section "XXH64 algorithm description".
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastconv {

class Xxh64 {
 public:
  void add(const std::byte* data, int64_t size) {
    total_ += static_cast<uint64_t>(size);
    if (held_ > 0) {
      const int64_t n = std::min(size, kStripe - held_);
      std::memcpy(stripe_.data() + held_, data, static_cast<size_t>(n));
      held_ += n;
      data += n;
      size -= n;
      if (held_ < kStripe) return;
      consume(stripe_.data());
      held_ = 0;
    }
    for (; size >= kStripe; data += kStripe, size -= kStripe) consume(data);
    std::memcpy(stripe_.data(), data, static_cast<size_t>(size));
    held_ = size;
  }

  uint64_t digest() const {
    uint64_t sum = kPrime5;
    if (total_ >= static_cast<uint64_t>(kStripe)) {
      sum = rotate(lanes_[0], 1) + rotate(lanes_[1], 7) + rotate(lanes_[2], 12) + rotate(lanes_[3], 18);
      for (const uint64_t lane : lanes_) sum = (sum ^ round(0, lane)) * kPrime1 + kPrime4;
    }
    sum += total_;
    int64_t at = 0;
    for (; at + 8 <= held_; at += 8)
      sum = rotate(sum ^ round(0, load<uint64_t>(stripe_.data() + at)), 27) * kPrime1 + kPrime4;
    for (; at + 4 <= held_; at += 4)
      sum = rotate(sum ^ (load<uint32_t>(stripe_.data() + at) * kPrime1), 23) * kPrime2 + kPrime3;
    for (; at < held_; ++at) sum = rotate(sum ^ (static_cast<uint64_t>(stripe_[at]) * kPrime5), 11) * kPrime1;
    sum = (sum ^ (sum >> 33)) * kPrime2;
    sum = (sum ^ (sum >> 29)) * kPrime3;
    return sum ^ (sum >> 32);
  }

 private:
  static constexpr int64_t kStripe = 32;
  static constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                            kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;

  static uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }
  static uint64_t round(uint64_t lane, uint64_t word) { return rotate(lane + word * kPrime2, 31) * kPrime1; }
  template <typename Word>
  static Word load(const std::byte* data) {
    Word word;
    std::memcpy(&word, data, sizeof word);
    return word;
  }
  void consume(const std::byte* stripe) {
    for (size_t i = 0; i < lanes_.size(); ++i) lanes_[i] = round(lanes_[i], load<uint64_t>(stripe + 8 * i));
  }

  std::array<uint64_t, 4> lanes_ = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
  std::array<std::byte, kStripe> stripe_;
  int64_t held_ = 0;
  uint64_t total_ = 0;
};

}  // namespace fastconv
