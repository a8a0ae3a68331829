// All mapped files that jobs read, and whether they still are what they were. It must not know what is read when.
#pragma once

#include <cstdint>
#include <set>
#include <stdexcept>

#include "engine/job.hpp"
#include "io/mapped_file.hpp"

namespace fastconv {

// An input file is no longer what it was when it was mapped, or a part of it could not be read.
struct InputChanged : std::runtime_error {
  // Says which of the two it is.
  explicit InputChanged(const MappedFile& file);
  uint64_t device, inode;
  bool is_unreadable;
};

class InputFiles {
 public:
  void add(const Source& source);
  // With its deltas and importance.
  void add(const Job& job);

  // Throw InputChanged. What was read before a loss is noticed is of no use.
  void check_lost() const;
  void check_unchanged() const;

 private:
  std::set<const MappedFile*> files_;
};

}  // namespace fastconv
