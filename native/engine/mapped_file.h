// Read-only file mappings: how checkpoints reach a kernel without being copied.
//
// A file that shrinks while it is mapped turns a read into SIGBUS, which no library may handle for its host. So a
// range is checked against the file's size when it is bound and again just before the program runs; what remains is
// a file truncated during one run.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "lathe/status.h"

namespace lathe {

class MappedFile {
 public:
  static Status open(const std::string& path, std::shared_ptr<MappedFile>* out);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // True while `path` still names the same file with the same size and modification time.
  bool current() const;
  // Fails with ERR_DATA unless the file still holds [offset, offset + length).
  Status check_range(uint64_t offset, uint64_t length) const;
  // Asks the system to read the range ahead.
  void will_need(uint64_t offset, uint64_t length) const;

 private:
  MappedFile() = default;
  std::string path_;
  int descriptor_ = -1;
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  int64_t modified_ns_ = 0;
};

// One mapping per path. Not thread-safe: its session holds a lock.
class FileCache {
 public:
  Status open(const std::string& path, std::shared_ptr<MappedFile>* out);
  uint64_t mapped_bytes() const;
  void clear() { files_.clear(); }

 private:
  std::map<std::string, std::shared_ptr<MappedFile>> files_;
};

}  // namespace lathe
