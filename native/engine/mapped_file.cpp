// mmap of regular files, with the checks described in the header.
#include "engine/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lathe {

namespace {

int64_t modified_ns(const struct stat& info) {
#ifdef __APPLE__
  return static_cast<int64_t>(info.st_mtimespec.tv_sec) * 1000000000 + info.st_mtimespec.tv_nsec;
#else
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1000000000 + info.st_mtim.tv_nsec;
#endif
}

Status file_error(const std::string& path, const std::string& problem) {
  return {"ERR_DATA", "file '" + path + "': " + problem};
}

}  // namespace

Status MappedFile::open(const std::string& path, std::shared_ptr<MappedFile>* out) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0) return file_error(path, std::string("cannot be opened: ") + std::strerror(errno));
  struct stat info {};
  if (fstat(file->descriptor_, &info) != 0) return file_error(path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return file_error(path, "expected a regular file");
  file->bytes_ = static_cast<uint64_t>(info.st_size);
  file->device_ = info.st_dev;
  file->inode_ = info.st_ino;
  file->modified_ns_ = modified_ns(info);
  if (file->bytes_ > 0) {
    void* data = mmap(nullptr, file->bytes_, PROT_READ, MAP_SHARED, file->descriptor_, 0);
    if (data == MAP_FAILED) return file_error(path, std::string("cannot be mapped: ") + std::strerror(errno));
    file->data_ = static_cast<uint8_t*>(data);
  }
  *out = std::move(file);
  return ok_status();
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool MappedFile::current() const {
  struct stat info {};
  return stat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_ &&
         static_cast<uint64_t>(info.st_size) == bytes_ && modified_ns(info) == modified_ns_;
}

Status MappedFile::check_range(uint64_t offset, uint64_t length) const {
  struct stat info {};
  if (fstat(descriptor_, &info) != 0) return file_error(path_, std::strerror(errno));
  const uint64_t now = static_cast<uint64_t>(info.st_size);
  const uint64_t size = now < bytes_ ? now : bytes_;
  if (offset > size || length > size - offset) {
    return file_error(path_, "expected bytes " + std::to_string(offset) + " to " + std::to_string(offset + length) +
                                 ", but the file has " + std::to_string(size) + " bytes: it is truncated or changed");
  }
  return ok_status();
}

void MappedFile::will_need(uint64_t offset, uint64_t length) const {
  if (length == 0) return;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t start = offset / page * page;
  madvise(data_ + start, length + (offset - start), MADV_WILLNEED);
}

Status FileCache::open(const std::string& path, std::shared_ptr<MappedFile>* out) {
  auto it = files_.find(path);
  if (it != files_.end() && it->second->current()) {
    *out = it->second;
    return ok_status();
  }
  std::shared_ptr<MappedFile> file;
  LATHE_TRY(MappedFile::open(path, &file));
  files_[path] = file;
  *out = std::move(file);
  return ok_status();
}

uint64_t FileCache::mapped_bytes() const {
  uint64_t total = 0;
  for (auto& entry : files_) total += entry.second->bytes();
  return total;
}

}  // namespace lathe
