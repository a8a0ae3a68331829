// Names of files changed in one step, where the system can: an older file of a name is never lost on the way.
#pragma once

namespace fastconv {

// They allocate nothing: where memory has run out, names can still be given back. Throw std::system_error: EEXIST where
// the new name is taken, EINVAL or ENOSYS where the file system or the system cannot do it in one step.

// Gives a file or folder a name that nothing has yet.
void rename_new(const char* from, const char* to);
// Gives each of two the other's name.
void exchange_names(const char* one, const char* other);

}  // namespace fastconv
