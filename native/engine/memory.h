// Memory that a session owns: zeroed, 64-byte aligned regions, counted against one process-wide limit.
//
// The plan promises a peak, so running out must be a Status at allocation time and never a kill in the middle of a
// step: `Region::allocate` compares what all sessions hold with the limit (LATHE_MEMORY_LIMIT, else the smaller of
// physical memory and the cgroup's limit) before it asks the kernel for pages. Pages themselves come on first touch.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe {

class Region {
 public:
  // Zero-filled. `what` names it in the error: "arena of program 'micro'".
  static Status allocate(uint64_t bytes, const std::string& what, std::shared_ptr<Region>* out);
  // The same in the device's own memory where it has one; `data` is then not the host's to touch.
  static Status allocate_on(const DeviceSpec& device, uint64_t bytes, const std::string& what,
                            std::shared_ptr<Region>* out);
  // One allocation of the device cut into regions of these sizes, each aligned to kDeviceAlignment; freed with its last part. A
  // driver rounds every allocation up, by as much as 2 MiB, and takes its time for each.
  static Status allocate_parts(const DeviceSpec& device, const std::vector<uint64_t>& bytes, const std::string& what,
                               std::vector<std::shared_ptr<Region>>* out);
  static constexpr uint64_t kDeviceAlignment = 256;
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Region() = default;
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
  void* mapping_ = nullptr;  // null when `data_` came from aligned_alloc
  uint64_t mapping_bytes_ = 0;
  void (*release_)(int device, void* data) = nullptr;  // device memory
  int device_ = 0;
  std::shared_ptr<Region> whole_;  // that this is a part of
};

// What all regions of this process hold together, and the most they may.
uint64_t memory_in_use();
uint64_t memory_limit();
// What this process's regions hold on a CUDA device.
uint64_t device_memory_in_use(int device);

// "1.42 GiB"
std::string format_bytes(uint64_t bytes);

}  // namespace lathe
