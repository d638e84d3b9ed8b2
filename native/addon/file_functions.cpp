// mapFile: a file's bytes as an ArrayBuffer that is not read until it is looked at.
//
// The mapping is private and may be written to: a write of JavaScript changes a copy of the page, where a read-only one
// would end the process. What would still end it is a read beyond the end of a file that was cut short in place after it
// was mapped, so this is for files that are only ever replaced as a whole (a replaced file stays as it was here).
#include <fcntl.h>
#include <napi.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "addon/convert.h"
#include "addon/functions.h"

namespace lathe::addon {

namespace {

[[noreturn]] void fail(Napi::Env env, const std::string& path, const char* what) {
  throw_status(env, {"ERR_DATA", "file '" + path + "': cannot be " + what + ": " + std::strerror(errno)});
}

// (path, bytes): null where this process may not wrap foreign memory, or the file has another size by now.
Napi::Value map_file(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = read_string(env, info[0], "path");
  const uint64_t bytes = read_size(env, info[1], "bytes");
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(env, path, "opened");
  struct stat about = {};
  const bool fits = ::fstat(file, &about) == 0 && S_ISREG(about.st_mode) && static_cast<uint64_t>(about.st_size) == bytes && bytes > 0;
  void* const data = fits ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0) : MAP_FAILED;
  const int why = errno;
  ::close(file);
  errno = why;
  if (!fits) return env.Null();
  if (data == MAP_FAILED) fail(env, path, "mapped");
  // Rows are read in random order: reading ahead would fetch what nobody asked for.
  ::madvise(data, bytes, MADV_RANDOM);
  napi_value out = nullptr;
  const auto release = [](napi_env, void* mapped, void* size) { ::munmap(mapped, reinterpret_cast<uintptr_t>(size)); };
  if (napi_create_external_arraybuffer(env, data, bytes, release, reinterpret_cast<void*>(static_cast<uintptr_t>(bytes)), &out) == napi_ok) return {env, out};
  ::munmap(data, bytes);
  return env.Null();
}

LATHE_ADDON_FUNCTION("mapFile", map_file);

}  // namespace

}  // namespace lathe::addon
