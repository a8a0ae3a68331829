// Brings encoded bytes to the output files. Where those can be written past the page cache, threads of its own wait for
// the disk while others compute. It must not know what the bytes mean.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "engine/memory_plan.hpp"
#include "io/output_file.hpp"

namespace fastconv {

// Bytes that belong at one place of one file, so placed in memory that its pages are pages of the file.
class WriteBuffer {
 public:
  explicit WriteBuffer(int64_t n_bytes);
  ~WriteBuffer();
  WriteBuffer(const WriteBuffer&) = delete;
  WriteBuffer& operator=(const WriteBuffer&) = delete;

  // Forgets what it holds.
  void begin(int file, int64_t offset);
  // Where the next n bytes go.
  std::byte* append(int64_t n);
  // Gives up the bytes of the last, unfinished page to `next`, which begins with them, unless they are all.
  void carry_to(WriteBuffer& next);

  int file() const { return file_; }
  int64_t offset() const { return offset_; }
  int64_t size() const { return size_; }
  const std::byte* data() const;

 private:
  std::byte* memory_;
  int64_t capacity_;
  int file_ = 0;
  int64_t offset_ = 0, size_ = 0;
  uint64_t number_ = 0;  // among those put, from 1

  friend class Writer;
};

class Writer {
 public:
  // files must outlive this. Where no thread can be had, whoever puts a buffer writes it.
  Writer(const std::vector<OutputFile>& files, const MemoryPlan& plan);
  ~Writer();

  // From how many bytes on a buffer should be put.
  int64_t full() const { return plan_.full_bytes; }

  // How many buffers were put so far, and up to which of them all have been written.
  uint64_t n_put();
  uint64_t n_written();

  // Waits for an empty buffer. Throws what stopped the writing.
  std::unique_ptr<WriteBuffer> take();
  // Writes it, now or later. Throws what stopped the writing.
  void put(std::unique_ptr<WriteBuffer> buffer);
  // Waits until all is written. Throws what stopped the writing.
  void finish();
  // What is not yet being written is not written any more; returns when nothing is.
  void abort();

 private:
  void work();
  // One that waits and may be written now, nullptr if there is none. Through the page cache a file takes one write at a
  // time: a thread that would wait for the file's lock leaves its buffer to the one that writes, and goes on.
  std::unique_ptr<WriteBuffer> next_to_write();
  // The lock is let go of meanwhile.
  void write(std::unique_ptr<WriteBuffer> buffer, std::unique_lock<std::mutex>& lock);

  const std::vector<OutputFile>& files_;
  const MemoryPlan plan_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t n_buffers_;  // that may still be made
  size_t n_writing_ = 0;
  std::vector<size_t> n_writing_to_;  // by file
  uint64_t n_put_ = 0;
  std::set<uint64_t> unwritten_;  // numbers of buffers that were put
  bool ended_ = false;
  std::exception_ptr error_;
  std::vector<std::unique_ptr<WriteBuffer>> empty_;
  std::deque<std::unique_ptr<WriteBuffer>> waiting_;
  std::vector<std::thread> threads_;
};

}  // namespace fastconv
