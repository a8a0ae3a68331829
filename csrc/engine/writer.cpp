#include "engine/writer.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

namespace fastconv {
namespace {

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

Writer::Writer(const std::vector<OutputFile>& files, const MemoryPlan& plan)
    : files_(files), plan_(plan), n_buffers_(plan.n_buffers), n_writing_to_(files.size()) {
  // What is given back must find its place also where no memory is left.
  empty_.reserve(n_buffers_);
  try {
    for (size_t i = 0; i < plan.n_writers; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // Those that could be had do.
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
    return std::make_unique<WriteBuffer>(plan_.full_bytes + plan_.piece_bytes + OutputFile::page_bytes());
  }
  std::unique_ptr<WriteBuffer> buffer = std::move(empty_.back());
  empty_.pop_back();
  return buffer;
}

void Writer::put(std::unique_ptr<WriteBuffer> buffer) {
  std::unique_lock lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  buffer->number_ = ++n_put_;
  unwritten_.insert(n_put_);
  if (ended_) {
    empty_.push_back(std::move(buffer));
    return;
  }
  const bool is_direct = files_[buffer->file()].direct();
  waiting_.push_back(std::move(buffer));
  if (is_direct && !threads_.empty()) {
    changed_.notify_all();
    return;
  }
  while (std::unique_ptr<WriteBuffer> next = next_to_write()) write(std::move(next), lock);
  if (error_) std::rethrow_exception(error_);
}

std::unique_ptr<WriteBuffer> Writer::next_to_write() {
  const auto found = std::find_if(waiting_.begin(), waiting_.end(), [this](const auto& buffer) {
    return files_[buffer->file()].direct() || n_writing_to_[buffer->file()] == 0;
  });
  if (found == waiting_.end()) return nullptr;
  std::unique_ptr<WriteBuffer> buffer = std::move(*found);
  waiting_.erase(found);
  return buffer;
}

void Writer::write(std::unique_ptr<WriteBuffer> buffer, std::unique_lock<std::mutex>& lock) {
  ++n_writing_;
  ++n_writing_to_[buffer->file()];
  lock.unlock();
  std::exception_ptr error;
  try {
    files_[buffer->file()].write(buffer->data(), buffer->size(), buffer->offset());
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  --n_writing_;
  --n_writing_to_[buffer->file()];
  if (!error) unwritten_.erase(buffer->number_);
  if (error && !error_) {
    error_ = std::move(error);
    waiting_.clear();
  }
  empty_.push_back(std::move(buffer));
  changed_.notify_all();
}

void Writer::work() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    if (std::unique_ptr<WriteBuffer> buffer = next_to_write())
      write(std::move(buffer), lock);
    else
      changed_.wait(lock);
  }
}

uint64_t Writer::n_put() {
  const std::lock_guard lock(mutex_);
  return n_put_;
}

uint64_t Writer::n_written() {
  const std::lock_guard lock(mutex_);
  return unwritten_.empty() ? n_put_ : *unwritten_.begin() - 1;
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
