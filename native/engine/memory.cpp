// Regions: large ones are anonymous mappings (huge pages asked for), small ones come from the heap so that thousands
// of LoRA slots do not cost a page table entry each.
#include "engine/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "lathe/backend.h"
#include "lathe/program.h"

namespace lathe {

namespace {

constexpr uint64_t kMapFrom = uint64_t{64} << 10;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

std::atomic<uint64_t> g_in_use{0};
constexpr int kDevices = 64;
std::atomic<uint64_t> g_on_device[kDevices] = {};

uint64_t read_number(const char* path) {
  FILE* file = std::fopen(path, "re");
  if (!file) return UINT64_MAX;
  unsigned long long value = 0;
  const bool ok = std::fscanf(file, "%llu", &value) == 1;  // "max" does not parse: no limit
  std::fclose(file);
  return ok && value > 0 ? value : UINT64_MAX;
}

uint64_t detect_limit() {
  uint64_t limit = UINT64_MAX;
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) limit = static_cast<uint64_t>(pages) * static_cast<uint64_t>(page);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const uint64_t value = read_number(path);
    if (value < limit) limit = value;
  }
  return limit;
}

// Takes `bytes` from the budget, or says by returning false that they are not there.
bool reserve(uint64_t bytes) {
  const uint64_t limit = memory_limit();
  uint64_t used = g_in_use.load();
  do {
    if (bytes > limit || used > limit - bytes) return false;
  } while (!g_in_use.compare_exchange_weak(used, used + bytes));
  return true;
}

Status refuse(uint64_t bytes, const std::string& what) {
  return {"ERR_PLAN_MEMORY", what + " needs " + format_bytes(bytes) + ", but lathe already holds " +
                                 format_bytes(memory_in_use()) + " of " + format_bytes(memory_limit()) +
                                 ": use a smaller micro-batch, gradient checkpointing or 4-bit weights, or raise "
                                 "LATHE_MEMORY_LIMIT"};
}

}  // namespace

uint64_t memory_in_use() { return g_in_use.load(); }
uint64_t device_memory_in_use(int device) { return device >= 0 && device < kDevices ? g_on_device[device].load() : 0; }

uint64_t memory_limit() {
  if (const char* text = std::getenv("LATHE_MEMORY_LIMIT")) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text, &end, 10);
    if (end != text && *end == '\0' && value > 0) return value;
  }
  static const uint64_t detected = detect_limit();
  return detected;
}

std::string format_bytes(uint64_t bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    unit++;
  }
  char text[48];
  std::snprintf(text, sizeof text, "%.*f %s", unit == 0 ? 0 : value >= 100 ? 0 : value >= 10 ? 1 : 2, value,
                kUnits[unit]);
  return text;
}

Status Region::allocate(uint64_t bytes, const std::string& what, std::shared_ptr<Region>* out) {
  std::shared_ptr<Region> region(new Region);
  constexpr uint64_t kMost = uint64_t{1} << 47;  // more than any address space here, and far from overflow
  if (bytes > kMost || !reserve(bytes)) return refuse(bytes, what);
  region->bytes_ = bytes;
  if (bytes < kMapFrom) {
    const uint64_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // at least one line: never null
    region->data_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
    if (region->data_) std::memset(region->data_, 0, rounded);
  } else {
    const bool huge = bytes >= 2 * kHugePage;
    region->mapping_bytes_ = huge ? bytes + kHugePage : bytes;
    void* mapping =
        mmap(nullptr, region->mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping != MAP_FAILED) {
      region->mapping_ = mapping;
      uintptr_t address = reinterpret_cast<uintptr_t>(mapping);
      if (huge) address = (address + kHugePage - 1) / kHugePage * kHugePage;
      region->data_ = reinterpret_cast<uint8_t*>(address);
#ifdef MADV_HUGEPAGE
      if (huge) madvise(region->data_, bytes, MADV_HUGEPAGE);
#endif
    }
  }
  if (!region->data_) return refuse(bytes, what);
  *out = std::move(region);
  return ok_status();
}

Status Region::allocate_on(const DeviceSpec& device, uint64_t bytes, const std::string& what,
                           std::shared_ptr<Region>* out) {
  const Backend& backend = Backend::of(device.kind);
  if (!backend.separate_memory()) return allocate(bytes, what, out);
  std::shared_ptr<Region> region(new Region);
  DeviceInfo info;
  LATHE_TRY(backend.describe(device.index, &info));
  void* data = nullptr;
  // The driver would refuse too, but only its own way; a little is left to it for its tables.
  Status status = bytes > info.free_bytes ? Status("ERR_PLAN_MEMORY", "") : backend.allocate(device.index, bytes, &data);
  if (!status.ok()) {
    return {"ERR_PLAN_MEMORY", what + " needs " + format_bytes(bytes) + ", but " + info.name + " (cuda:" +
                                   std::to_string(device.index) + ") has " + format_bytes(info.free_bytes) + " of " +
                                   format_bytes(info.memory_bytes) + " free" +
                                   (status.message().empty() ? "" : " (" + status.message() + ")") +
                                   ": use a smaller micro-batch, gradient checkpointing or 4-bit weights"};
  }
  region->bytes_ = bytes;
  region->data_ = static_cast<uint8_t*>(data);
  region->release_ = backend.release;
  region->device_ = device.index;
  if (device.index < kDevices) g_on_device[device.index].fetch_add(bytes);
  *out = std::move(region);
  return ok_status();
}

Status Region::allocate_parts(const DeviceSpec& device, const std::vector<uint64_t>& bytes, const std::string& what,
                              std::vector<std::shared_ptr<Region>>* out) {
  const auto padded = [](uint64_t n) { return (n + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment; };
  uint64_t total = 0;
  for (uint64_t n : bytes) total += padded(n);
  std::shared_ptr<Region> whole;
  LATHE_TRY(allocate_on(device, total, what, &whole));
  uint64_t offset = 0;
  for (uint64_t n : bytes) {
    std::shared_ptr<Region> part(new Region);
    part->data_ = whole->data_ + offset;
    part->bytes_ = n;
    part->whole_ = whole;
    out->push_back(std::move(part));
    offset += padded(n);
  }
  return ok_status();
}

Region::~Region() {
  if (whole_) return;
  if (release_) {
    release_(device_, data_);
    if (device_ < kDevices) g_on_device[device_].fetch_sub(bytes_);
    return;
  }
  if (mapping_) {
    munmap(mapping_, mapping_bytes_);
  } else {
    std::free(data_);
  }
  g_in_use.fetch_sub(bytes_);
}

}  // namespace lathe
