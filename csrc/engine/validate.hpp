// The proof, before any element is read, that a job touches nothing outside its storages. Everything after relies on
// it.
#pragma once

#include "engine/job.hpp"

namespace fastconv {

// Each throws std::invalid_argument.

// Every element of the piece lies inside its storage.
void validate(const Piece& piece);

// The pieces cover every stored row's columns exactly once, and rows[] names stored rows.
void validate(const Source& source);

// All of its types can be decoded: needed where the elements' values are, not where blocks are copied.
void require_values(const Source& source);

// The shapes of deltas and importance fit the source, and the outputs' blocks divide its rows. n_files: output files of
// the run.
void validate(const Job& job, size_t n_files);

}  // namespace fastconv
