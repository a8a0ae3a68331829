#include "io/storage.hpp"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace fastconv {

std::shared_ptr<Storage> Storage::map_file(int descriptor) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<Storage>> mapped;

  const MappedFile::Identity identity = MappedFile::identify(descriptor);
  const std::lock_guard lock(mutex);
  mapped.erase(std::remove_if(mapped.begin(), mapped.end(), [](const auto& entry) { return entry.expired(); }),
               mapped.end());
  for (const auto& entry : mapped)
    if (auto storage = entry.lock(); storage && storage->file_->identity() == identity && !storage->file_->lost())
      return storage;

  std::shared_ptr<Storage> storage(new Storage);
  storage->file_ = std::make_unique<MappedFile>(descriptor);
  storage->data_ = storage->file_->data();
  storage->size_ = storage->file_->size();
  mapped.push_back(storage);
  return storage;
}

std::shared_ptr<Storage> Storage::in_memory(const void* data, int64_t size, std::shared_ptr<void> keeper) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->data_ = static_cast<const std::byte*>(data);
  storage->size_ = size;
  storage->keeper_ = std::move(keeper);
  return storage;
}

}  // namespace fastconv
