// The part of the CUDA runtime that the backend uses, by our own names, so that the host shim can stand in for it.
// A failure is a Status that says which call and why; a sticky error of an earlier kernel shows up here too.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lathe/backend.h"
#include "lathe/status.h"

namespace lathe::cuda {

// Stream::handle of a CUDA session.
struct Queue;

Status open_queue(int device, Queue** out);
void close_queue(Queue* queue);
void activate_device(int device);
Status allocate_device(int device, uint64_t bytes, void** out);  // zeroed
void release_device(int device, void* data);
Status copy_queued(Queue* queue, void* to, const void* from, uint64_t bytes, CopyKind kind);
Status zero_queued(Queue* queue, void* to, uint64_t bytes);
Status wait_queue(Queue* queue);
int device_count(std::string* why);
Status describe_device(int device, DeviceInfo* out);
int queue_device(const Queue* queue);
size_t queue_shared_bytes(const Queue* queue);  // the most that a block may ask for
// A place for what a library keeps per session; freed with the queue.
std::shared_ptr<void>& queue_extra(Queue* queue);
// Calls `work` with the CUDA stream, or has it recorded.
Status queue_call(Queue* queue, const std::function<Status(void* stream)>& work);

Status begin_recording(Queue* queue);
Status end_recording(Queue* queue, void** recording);
Status launch_recording(Queue* queue, void* recording);
void release_recording(int device, void* recording);
Status queue_mark(Queue* queue, uint32_t number);
uint32_t queue_last_mark(const Queue* queue);
const char* built_for();

}  // namespace lathe::cuda
