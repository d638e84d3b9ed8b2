// The CPU backend's entry: a stream is a worker pool.
#include "lathe/backend.h"

#include <new>

#include "pool.h"

namespace lathe::cpu {

namespace {

Status open(const DeviceSpec& device, Stream* stream) {
  stream->pool = new (std::nothrow) Pool(device.threads);
  return stream->pool ? ok_status() : device_error("the worker pool cannot be allocated");
}

void close(Stream* stream) {
  delete stream->pool;
  stream->pool = nullptr;
}

const BackendRegistration registration(DeviceSpec::Kind::Cpu, {open, close});

}  // namespace

}  // namespace lathe::cpu
