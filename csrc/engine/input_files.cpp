#include "engine/input_files.hpp"

#include "io/storage.hpp"

namespace fastconv {

InputChanged::InputChanged(const MappedFile& file)
    : std::runtime_error("an input file changed or cannot be read"),
      device(file.identity().device),
      inode(file.identity().inode),
      is_unreadable(file.lost() && file.unchanged()) {}

void InputFiles::add(const Source& source) {
  for (const Piece& piece : source.pieces)
    if (piece.storage->file() != nullptr) files_.insert(piece.storage->file());
}

void InputFiles::add(const Job& job) {
  add(job.source);
  for (const Delta& delta : job.deltas) {
    add(delta.b);
    add(delta.a);
    for (const Source& magnitude : delta.magnitude) add(magnitude);
  }
  for (const Importance& importance : job.importance) add(importance.sums);
}

void InputFiles::check_lost() const {
  for (const MappedFile* file : files_)
    if (file->lost()) throw InputChanged(*file);
}

void InputFiles::check_unchanged() const {
  check_lost();
  for (const MappedFile* file : files_)
    if (!file->unchanged()) throw InputChanged(*file);
}

}  // namespace fastconv
