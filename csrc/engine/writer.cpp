#include "engine/writer.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace fastconv {
namespace {

// Long writes keep the disk busy, and what a thread takes on at a time makes one; many threads share the room.
constexpr int64_t kBufferBytes = 5 << 18, kLeastBufferBytes = 64 << 10, kAllBuffersBytes = 32 << 20;
// Writes under way at a time: enough for the queue of a fast disk.
constexpr size_t kWriters = 4;

std::byte* allocate(int64_t n_bytes) {
  return static_cast<std::byte*>(::operator new(
      static_cast<size_t>(n_bytes), static_cast<std::align_val_t>(static_cast<size_t>(OutputFile::page_bytes()))));
}

void release(std::byte* memory) {
  ::operator delete(memory, static_cast<std::align_val_t>(static_cast<size_t>(OutputFile::page_bytes())));
}

}  // namespace

WriteBuffer::WriteBuffer(int64_t n_bytes) : memory_(allocate(n_bytes)), capacity_(n_bytes) {}

WriteBuffer::~WriteBuffer() { release(memory_); }

void WriteBuffer::begin(int file, int64_t offset) {
  file_ = file;
  offset_ = offset;
  size_ = 0;
}

const std::byte* WriteBuffer::data() const { return memory_ + offset_ % OutputFile::page_bytes(); }

std::byte* WriteBuffer::append(int64_t n) {
  const int64_t begin = offset_ % OutputFile::page_bytes() + size_;
  if (begin + n > capacity_) {
    const int64_t capacity = std::max(begin + n, capacity_ + capacity_ / 2);
    std::byte* memory = allocate(capacity);
    std::memcpy(memory, memory_, static_cast<size_t>(begin));
    release(std::exchange(memory_, memory));
    capacity_ = capacity;
  }
  size_ += n;
  return memory_ + begin;
}

void WriteBuffer::carry_to(WriteBuffer& next) {
  const int64_t tail = (offset_ + size_) % OutputFile::page_bytes();
  const int64_t carried = tail < size_ ? tail : 0;
  size_ -= carried;
  next.begin(file_, offset_ + size_);
  std::memcpy(next.append(carried), data() + size_, static_cast<size_t>(carried));
}

Writer::Writer(const std::vector<OutputFile>& files, size_t n_holders, size_t n_outputs) : files_(files) {
  const bool direct = std::any_of(files.begin(), files.end(), [](const OutputFile& file) { return file.direct(); });
  const size_t n_threads = direct ? kWriters : 0;
  // A holder that puts a buffer has taken the next one. The rest rides out a disk that halts for a moment.
  n_buffers_ = n_holders * (n_outputs + 1) + 3 * n_threads;
  full_ = std::clamp(kAllBuffersBytes / static_cast<int64_t>(n_buffers_), kLeastBufferBytes, kBufferBytes);
  try {
    for (size_t i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    abort();
    throw;
  }
}

Writer::~Writer() { abort(); }

std::unique_ptr<WriteBuffer> Writer::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return error_ || !empty_.empty() || n_buffers_ > 0; });
  if (error_) std::rethrow_exception(error_);
  if (empty_.empty()) {
    --n_buffers_;
    lock.unlock();
    // Room for the first page's lead and for the piece that fills it.
    return std::make_unique<WriteBuffer>(full_ + kLeastBufferBytes + OutputFile::page_bytes());
  }
  std::unique_ptr<WriteBuffer> buffer = std::move(empty_.back());
  empty_.pop_back();
  return buffer;
}

void Writer::put(std::unique_ptr<WriteBuffer> buffer) {
  const bool later = !threads_.empty() && files_[buffer->file()].direct();
  if (!later) write(*buffer);
  {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    if (later && !ended_)
      waiting_.push_back(std::move(buffer));
    else
      empty_.push_back(std::move(buffer));
  }
  changed_.notify_all();
}

void Writer::write(const WriteBuffer& buffer) const {
  files_[buffer.file()].write(buffer.data(), buffer.size(), buffer.offset());
}

void Writer::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ended_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    std::unique_ptr<WriteBuffer> buffer = std::move(waiting_.front());
    waiting_.pop_front();
    ++n_writing_;
    lock.unlock();
    std::exception_ptr error;
    try {
      write(*buffer);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    --n_writing_;
    if (error && !error_) {
      error_ = std::move(error);
      waiting_.clear();
    }
    empty_.push_back(std::move(buffer));
    changed_.notify_all();
  }
}

void Writer::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_.empty() && n_writing_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

void Writer::abort() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    for (auto& buffer : waiting_) empty_.push_back(std::move(buffer));
    waiting_.clear();
  }
  changed_.notify_all();
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

}  // namespace fastconv
