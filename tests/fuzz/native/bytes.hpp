// Values out of a fuzzer's bytes, and blocks of memory that end where they end, so that a sanitizer sees every step
// past.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace fastconv::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  size_t left() const { return size_; }
  uint8_t byte() {
    uint8_t value = 0;
    take(&value, 1);
    return value;
  }
  // Below `limit`.
  int64_t below(int64_t limit) { return static_cast<int64_t>((byte() | byte() << 8) % limit); }
  // Mostly small, at times one of the numbers on which arithmetic breaks.
  int64_t number(int64_t usual) {
    const uint8_t kind = byte();
    if (kind < 232) return below(usual + 1);
    constexpr int64_t kEdges[] = {
        -1,        INT64_MIN, INT64_MAX,     INT64_MAX - 1, int64_t{1} << 62,   1ll << 31,          (1ll << 32) - 1,
        1ll << 32, 1ll << 33, INT64_MAX / 2, 1ll << 40,     INT64_MAX / 32 + 1, (int64_t{1} << 59), 0};
    return kEdges[kind % (sizeof(kEdges) / sizeof(kEdges[0]))];
  }
  float real() {
    float value = 0;
    take(&value, sizeof(value));
    return value;
  }
  // Repeats what is there; zeros where nothing is.
  void fill(void* to, size_t n) {
    auto* out = static_cast<uint8_t*>(to);
    size_t done = size_ < n ? size_ : n;
    std::memcpy(out, data_, done);
    if (done == 0) std::memset(out, 0, n);
    for (; done > 0 && done < n; done *= 2) std::memcpy(out + done, out, done < n - done ? done : n - done);
  }

 private:
  void take(void* to, size_t n) {
    const size_t m = n < size_ ? n : size_;
    std::memcpy(to, data_, m);
    data_ += m;
    size_ -= m;
  }

  const uint8_t* data_;
  size_t size_;
};

template <class T>
std::unique_ptr<T[]> exactly(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n)]());
}

// Equal bytes; any NaN equals any other.
inline bool same_values(const float* a, const float* b, int64_t n) {
  if (std::memcmp(a, b, sizeof(float) * n) == 0) return true;
  for (int64_t i = 0; i < n; ++i)
    if (std::memcmp(a + i, b + i, sizeof(float)) != 0 && !(a[i] != a[i] && b[i] != b[i])) return false;
  return true;
}

}  // namespace fastconv::fuzz
