// Fibers, meeting points, deferred copies and the race detector of the host shim. See shim.h.
//
// One kernel runs at a time in the whole process (a mutex): the point is correctness, and the state stays simple.
#include "shim.h"

#include <sys/mman.h>

#include "cuda_runtime.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

Current current;

namespace {

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;
constexpr size_t kSlotBytes = 64;

// ---- switching

#if defined(__x86_64__)
asm(R"(
.text
.type lathe_shim_switch, @function
lathe_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lathe_shim_switch, .-lathe_shim_switch
)");
extern "C" void lathe_shim_switch(void** save, void* load);
using Context = void*;
void switch_to(Context* save, Context* load) { lathe_shim_switch(save, *load); }
#else
using Context = ucontext_t;
void switch_to(Context* save, Context* load) { swapcontext(save, load); }
#endif

struct Fiber {
  char* stack = nullptr;
  Context context{};
  void* fake_stack = nullptr;
};

enum class State : uint8_t { Fresh, Ready, AtBlock, AtWarp, Done };

struct Copy {
  void* to;
  const void* from;
  int bytes, valid, group;
};

struct Thread {
  State state = State::Fresh;
  Fiber* fiber = nullptr;
  const void* site = nullptr;
  int deposits = 0;
  int group = 0;  // of cp.async copies not yet committed
  std::vector<Copy> copies;
};

struct Slot {
  alignas(16) unsigned char bytes[kSlotBytes];
};
struct Warp {
  Slot slots[2][kWarp];
  uint32_t epoch = 0;
};

std::mutex g_mutex;
std::string g_problem;
uint64_t g_random = 1;
bool g_in_kernel = false;
const Launch* g_launch = nullptr;
std::vector<Thread> g_threads;
std::vector<Warp> g_warps;
std::vector<Fiber*> g_idle;
Fiber* g_running = nullptr;
Context g_scheduler{};
const void* g_scheduler_stack = nullptr;
size_t g_scheduler_stack_bytes = 0;
void* g_scheduler_fake = nullptr;
uint32_t g_block_epoch = 0;
int g_linear_block = 0;
unsigned g_or[2] = {0, 0};
uint64_t g_launch_serial = 0, g_block_serial = 0;

uint64_t next_random() {
  g_random ^= g_random << 13, g_random ^= g_random >> 7, g_random ^= g_random << 17;
  return g_random;
}
template <class T>
void shuffle(std::vector<T>& v) {
  for (size_t i = v.size(); i > 1; i--) std::swap(v[i - 1], v[next_random() % i]);
}

// ---- memory that the detector watches

// Who touched a byte last. Ordered by a barrier: another epoch; in one warp also by __syncwarp.
struct Cell {
  uint64_t serial;  // of the launch (device memory) or of the block (shared memory)
  int32_t write_block, write_thread, read_block, read_thread;
  uint32_t write_epoch, write_warp_epoch, read_epoch, read_warp_epoch;
};
constexpr int32_t kNone = -1, kMany = -2;
// Several lanes of one warp.
constexpr int32_t lanes_of(int32_t warp) { return -100 - warp; }
constexpr int32_t warp_of(int32_t thread) { return thread >= 0 ? thread / kWarp : thread <= -100 ? -100 - thread : -1; }

struct Range {
  size_t bytes = 0;
  bool shared = false;
  Cell* cells = nullptr;  // made at the first access
};
std::map<uintptr_t, Range> g_ranges;
uintptr_t g_range_start = 0;
Range* g_range = nullptr;  // the one found last
struct Found {
  uintptr_t start = 0;
  Range* range = nullptr;
};
Found g_found[8];  // found lately
unsigned g_next_found = 0;
void forget_found() {
  g_range = nullptr;
  for (Found& f : g_found) f = Found{};
}

void watch(void* data, size_t bytes, bool shared) {
  g_ranges[reinterpret_cast<uintptr_t>(data)] = {bytes, shared, nullptr};
  forget_found();
}
void unwatch(void* data) {
  auto it = g_ranges.find(reinterpret_cast<uintptr_t>(data));
  if (it == g_ranges.end()) return;
  if (it->second.cells) munmap(it->second.cells, it->second.bytes * sizeof(Cell));
  g_ranges.erase(it);
  forget_found();
}
Range* range_of(uintptr_t address) {
  if (g_range && address - g_range_start < g_range->bytes) return g_range;
  // Stacks and tables of the host: not watched, and most of what is accessed.
  if (g_running && address - reinterpret_cast<uintptr_t>(g_running->stack) < kStack) return nullptr;
  for (Found& f : g_found)
    if (f.range && address - f.start < f.range->bytes) return g_range_start = f.start, g_range = f.range;
  auto it = g_ranges.upper_bound(address);
  if (it == g_ranges.begin()) return nullptr;
  --it;
  if (address - it->first >= it->second.bytes) return nullptr;
  g_range_start = it->first;
  g_found[g_next_found++ % 8] = {it->first, &it->second};
  return g_range = &it->second;
}

bool ordered(uint32_t epoch, uint32_t warp_epoch, int32_t thread) {
  if (epoch != g_block_epoch) return true;
  const int mine = current.linear;
  return warp_of(thread) == mine / kWarp && warp_epoch != g_warps[size_t(mine / kWarp)].epoch;
}

void race(const char* what, uintptr_t at, const Range& r, int32_t block, int32_t thread) {
  if (!g_problem.empty()) return;
  report(std::string("race: ") + what + " byte " + std::to_string(at - g_range_start) + " of " +
         (r.shared ? "shared" : "device") + " memory (" + std::to_string(r.bytes) + " bytes): block " +
         std::to_string(g_linear_block) + " thread " + std::to_string(current.linear) + " against block " +
         (block == kMany ? "several" : std::to_string(block)) + " thread " +
         (thread == kMany ? "several" : thread < 0 ? "several of warp " + std::to_string(warp_of(thread)) : std::to_string(thread)));
}

void access(uintptr_t address, size_t n, bool write) {
  Range* r = range_of(address);
  if (!r) return;
  if (!r->cells) {
    void* m = mmap(nullptr, r->bytes * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) return;
    r->cells = static_cast<Cell*>(m);
  }
  const uint64_t serial = r->shared ? g_block_serial : g_launch_serial;
  const int32_t block = g_linear_block, thread = current.linear;
  const uint32_t warp_epoch = g_warps[size_t(thread / kWarp)].epoch;
  n = std::min(n, r->bytes - (address - g_range_start));
  for (size_t i = 0; i < n; i++) {
    Cell& c = r->cells[address - g_range_start + i];
    if (c.serial != serial) c = {serial, kNone, kNone, kNone, kNone, 0, 0, 0, 0};
    if (c.write_block != kNone && (c.write_block != block || (c.write_thread != thread && !ordered(c.write_epoch, c.write_warp_epoch, c.write_thread))))
      race(write ? "write after an unordered write of" : "read after an unordered write of", address + i, *r, c.write_block, c.write_thread);
    if (!write) {
      if (c.read_block == kNone || (c.read_block == block && c.read_epoch != g_block_epoch)) {
        c.read_block = block, c.read_thread = thread;
      } else {
        if (c.read_block != block) c.read_block = kMany;
        if (warp_of(c.read_thread) != thread / kWarp) c.read_thread = kMany;
        else if (c.read_warp_epoch != warp_epoch) c.read_thread = thread;
        else if (c.read_thread != thread) c.read_thread = lanes_of(thread / kWarp);
      }
      c.read_epoch = g_block_epoch, c.read_warp_epoch = warp_epoch;
      continue;
    }
    if (c.read_block != kNone && (c.read_block != block || (c.read_thread != thread && !ordered(c.read_epoch, c.read_warp_epoch, c.read_thread))))
      race("write after an unordered read of", address + i, *r, c.read_block, c.read_thread);
    c.write_block = block, c.write_thread = thread, c.write_epoch = g_block_epoch, c.write_warp_epoch = warp_epoch;
  }
}

// ---- shared memory: heap blocks of exactly the size asked for

struct SharedBlock {
  unsigned char* data = nullptr;
  size_t bytes = 0;
};
SharedBlock g_dynamic;
std::map<int, SharedBlock> g_static;
std::map<int, uint64_t> g_static_serial;
int g_slots = 0;

void resize(SharedBlock& b, size_t bytes) {
  if (b.bytes == bytes && b.data) return;
  if (b.data) unwatch(b.data), std::free(b.data);
  b.data = static_cast<unsigned char*>(std::aligned_alloc(128, (std::max<size_t>(bytes, 1) + 127) / 128 * 128));
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(b.data + bytes, (std::max<size_t>(bytes, 1) + 127) / 128 * 128 - bytes);
#endif
  b.bytes = bytes;
  watch(b.data, bytes, true);
}

// ---- fibers

void thread_main();

Fiber* new_fiber() {
  auto* f = new Fiber;
  f->stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return f;
}
void reset_fiber(Fiber* f) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(f->stack, kStack);
#endif
#if defined(__x86_64__)
  auto top = (reinterpret_cast<uintptr_t>(f->stack) + kStack) / 16 * 16 - 8;
  auto** p = reinterpret_cast<void**>(top);
  *p = nullptr;  // where a return address would be: thread_main never returns, and expects rsp % 16 == 8
  *--p = reinterpret_cast<void*>(&thread_main);
  for (int i = 0; i < 6; i++) *--p = nullptr;
  f->context = p;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack;
  f->context.uc_stack.ss_size = kStack;
  f->context.uc_link = nullptr;
  makecontext(&f->context, thread_main, 0);
#endif
}

void to_scheduler(bool done) {
  Fiber* f = g_running;
  (void)done;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(done ? nullptr : &f->fake_stack, g_scheduler_stack, g_scheduler_stack_bytes);
#endif
  switch_to(&f->context, &g_scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f->fake_stack, &g_scheduler_stack, &g_scheduler_stack_bytes);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &g_scheduler_stack, &g_scheduler_stack_bytes);
#endif
  for (;;) {
    g_in_kernel = true;
    g_launch->invoke(g_launch->job);
    g_in_kernel = false;
    Thread& t = g_threads[size_t(current.linear)];
    if (!t.copies.empty()) report("a thread ended with cp.async copies that it never waited for");
    t.copies.clear();
    t.state = State::Done;
    to_scheduler(false);
  }
}

void resume(int i) {
  Thread& t = g_threads[size_t(i)];
  if (t.state == State::Fresh) {
    if (g_idle.empty()) {
      Fiber* f = new_fiber();
      reset_fiber(f);
      g_idle.push_back(f);
    }
    t.fiber = g_idle.back();
    g_idle.pop_back();
  }
  const unsigned x = current.block_dim.x, y = current.block_dim.y;
  current.linear = i;
  current.thread = dim3(unsigned(i) % x, unsigned(i) / x % y, unsigned(i) / (x * y));
  t.state = State::Ready;
  g_running = t.fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&g_scheduler_fake, t.fiber->stack, kStack);
#endif
  switch_to(&g_scheduler, &t.fiber->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(g_scheduler_fake, nullptr, nullptr);
#endif
  if (t.state == State::Done) {
    g_idle.push_back(t.fiber);
    t.fiber = nullptr;
  }
}

void park(State state, const void* site) {
  Thread& t = g_threads[size_t(current.linear)];
  t.state = state;
  t.site = site;
  g_in_kernel = false;
  to_scheduler(false);
  g_in_kernel = true;
}

// Runs one warp until all its lanes are at the block's barrier or done. False on a deadlock within the warp.
bool run_warp(int warp) {
  const int first = warp * kWarp, last = std::min<int>(first + kWarp, int(g_threads.size()));
  for (;;) {
    std::vector<int> ready;
    for (int i = first; i < last; i++)
      if (g_threads[size_t(i)].state == State::Fresh || g_threads[size_t(i)].state == State::Ready) ready.push_back(i);
    shuffle(ready);
    for (int i : ready) resume(i);
    int at_warp = 0, others = 0;
    for (int i = first; i < last; i++)
      (g_threads[size_t(i)].state == State::AtWarp ? at_warp : others)++;
    if (at_warp == 0) return true;
    if (others > 0) {
      report("divergent warp operation: " + std::to_string(at_warp) + " lanes of a warp wait for the other " +
             std::to_string(others));
      return false;
    }
    g_warps[size_t(warp)].epoch++;
    for (int i = first; i < last; i++) g_threads[size_t(i)].state = State::Ready;
  }
}

bool run_block() {
  const int n = int(g_threads.size());
  for (Thread& t : g_threads) t = Thread{};
  for (Warp& w : g_warps) w.epoch = 0;
  g_block_epoch = 0;
  g_or[0] = g_or[1] = 0;
  g_block_serial++;
  std::memset(g_dynamic.data, 0xff, g_dynamic.bytes);
  std::vector<int> warps(g_warps.size());
  for (size_t i = 0; i < warps.size(); i++) warps[i] = int(i);
  for (;;) {
    shuffle(warps);
    for (int w : warps)
      if (!run_warp(w)) return false;
    int waiting = 0;
    const void* site = nullptr;
    for (Thread& t : g_threads) {
      if (t.state != State::AtBlock) continue;
      if (waiting++ && t.site != site) return report("divergent barrier: threads of a block wait at different places"), false;
      site = t.site;
    }
    if (waiting == 0) return true;
    if (waiting < n) return report("divergent barrier: " + std::to_string(n - waiting) + " threads left before it"), false;
    g_block_epoch++;
    g_or[g_block_epoch & 1] = 0;
    for (Thread& t : g_threads) t.state = State::Ready;
    if (!g_problem.empty()) return false;
  }
}

}  // namespace

const std::string& problem() { return g_problem; }
void clear_problem() { g_problem.clear(); }
void report(const std::string& what) {
  if (g_problem.empty()) g_problem = what;
}

namespace {
bool g_failed = false;
thread_local cudaGraph_t g_recording = nullptr;
}  // namespace
bool failed() { return g_failed; }
bool recording() { return g_recording != nullptr; }
void record(std::function<void()> work) { g_recording->work.push_back(std::move(work)); }

bool run(const Launch& launch) {
  std::lock_guard<std::mutex> lock(g_mutex);
  static const uint64_t doomed = [] {
    const char* text = std::getenv("LATHE_SHIM_FAIL");
    return text && *text ? std::strtoull(text, nullptr, 10) : 0ull;
  }();
  if (doomed && g_launch_serial + 1 == doomed) g_failed = true;
  if (g_failed) return true;
  static const uint64_t seed = [] {
    const char* text = std::getenv("LATHE_SHIM_SEED");
    return text && *text ? std::strtoull(text, nullptr, 10) : 1ull;
  }();
  g_launch_serial++;
  g_random = (seed + 1) * 0x9e3779b97f4a7c15ull + g_launch_serial;
  for (int i = 0; i < 4; i++) next_random();
  if (launch.threads == 0 || launch.threads > 1024 || launch.threads % kWarp != 0)
    return report("a block of " + std::to_string(launch.threads) + " threads"), false;
  int most_shared = 0;
  (void)cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  if (launch.shared_bytes > size_t(most_shared)) return report("a block asks for " + std::to_string(launch.shared_bytes) + " bytes of shared memory"), false;
  if (launch.grid.y > 65535 || launch.grid.z > 65535) return report("grid.y or grid.z is larger than 65535"), false;
  if (launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0) return report("an empty grid"), false;
  g_launch = &launch;
  g_threads.assign(launch.threads, Thread{});
  g_warps.resize(launch.threads / kWarp);
  resize(g_dynamic, launch.shared_bytes);
  current.block_dim = dim3(launch.threads);
  current.grid_dim = launch.grid;
  const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  // Blocks in an order that is a permutation without a table: a stride coprime to their number.
  uint64_t stride = next_random() % blocks, start = next_random() % blocks;
  auto gcd = [](uint64_t a, uint64_t b) { while (b) std::swap(a %= b, b); return a; };
  while (gcd(stride, blocks) != 1) stride = (stride + 1) % std::max<uint64_t>(blocks, 2);
  for (uint64_t i = 0; i < blocks && g_problem.empty(); i++) {
    const uint64_t b = (start + i * stride) % blocks;
    g_linear_block = int(b);
    current.block = dim3(unsigned(b % launch.grid.x), unsigned(b / launch.grid.x % launch.grid.y),
                         unsigned(b / (uint64_t(launch.grid.x) * launch.grid.y)));
    if (!run_block()) {
      // Fibers that are stuck in the middle of a kernel are given up as they are.
      for (Thread& t : g_threads)
        if (t.fiber) t.fiber = nullptr;
    }
  }
  g_in_kernel = false;
  return g_problem.empty();
}

void block_barrier(const void* site) { park(State::AtBlock, site); }
void warp_barrier(bool) { park(State::AtWarp, nullptr); }

unsigned block_or(unsigned value, const void* site) {
  const uint32_t at = (g_block_epoch + 1) & 1;
  if (value) g_or[g_block_epoch & 1] |= 1u;
  (void)at;
  const uint32_t mine = g_block_epoch & 1;
  park(State::AtBlock, site);
  return g_or[mine];
}

void deposit(const void* data, size_t bytes) {
  const int i = current.linear;
  Thread& t = g_threads[size_t(i)];
  Slot& s = g_warps[size_t(i / kWarp)].slots[t.deposits++ & 1][i % kWarp];
  std::memcpy(s.bytes, data, std::min(bytes, kSlotBytes));
  park(State::AtWarp, nullptr);
}
const void* slot(int lane) {
  const int i = current.linear;
  return g_warps[size_t(i / kWarp)].slots[(g_threads[size_t(i)].deposits - 1) & 1][lane & 31].bytes;
}

unsigned char* dynamic_shared() { return g_dynamic.data; }
int new_shared_slot() { return g_slots++; }
void* static_shared(int slot, size_t bytes) {
  SharedBlock& b = g_static[slot];
  if (b.bytes != bytes) resize(b, bytes);
  uint64_t& serial = g_static_serial[slot];
  if (serial != g_block_serial) {
    std::memset(b.data, 0xff, bytes);
    serial = g_block_serial;
  }
  return b.data;
}

void async_copy(void* shared, const void* global, int bytes, int valid) {
  Thread& t = g_threads[size_t(current.linear)];
  access(reinterpret_cast<uintptr_t>(shared), size_t(bytes), true);
  if (valid > 0) access(reinterpret_cast<uintptr_t>(global), size_t(valid), false);
  std::memset(shared, 0xff, size_t(bytes));
  t.copies.push_back({shared, global, bytes, valid, t.group});
}
void async_commit() { g_threads[size_t(current.linear)].group++; }
void async_wait(int newest_allowed) {
  Thread& t = g_threads[size_t(current.linear)];
  std::vector<Copy> left;
  for (Copy& c : t.copies) {
    if (c.group >= t.group - newest_allowed) {
      left.push_back(c);
      continue;
    }
    access(reinterpret_cast<uintptr_t>(c.to), size_t(c.bytes), true);
    if (c.valid > 0) std::memcpy(c.to, c.from, size_t(c.valid));
    std::memset(static_cast<char*>(c.to) + c.valid, 0, size_t(c.bytes - c.valid));
  }
  t.copies.swap(left);
}

void* allocate(size_t bytes) {
  std::lock_guard<std::mutex> lock(g_mutex);
  const size_t rounded = (std::max<size_t>(bytes, 1) + 255) / 256 * 256;
  void* data = std::aligned_alloc(256, rounded);
  if (!data) return nullptr;
  std::memset(data, 0, rounded);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + bytes, rounded - bytes);
#endif
  watch(data, bytes, false);
  return data;
}
void release(void* data) {
  std::lock_guard<std::mutex> lock(g_mutex);
  unwatch(data);
  std::free(data);
}

}  // namespace shim

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return shim::g_recording = new shim_graph, cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* out) {
  *out = std::exchange(shim::g_recording, nullptr);
  return cudaSuccess;
}

#if defined(__SANITIZE_ADDRESS__)
// Fibers and shared blocks are kept for the next launch, on purpose.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

// ---- what -fsanitize=thread calls before every access of the kernels' code
// With the address sanitizer the compiler knows these names itself, with other types; nobody calls them there.
#if !defined(__SANITIZE_ADDRESS__)

extern "C" {
#define LATHE_HOOK(n)                                                                                       \
  void __tsan_read##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, false); }             \
  void __tsan_write##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, true); }             \
  void __tsan_unaligned_read##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, false); }   \
  void __tsan_unaligned_write##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, true); }   \
  void __tsan_volatile_read##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, false); }    \
  void __tsan_volatile_write##n(void* p) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, true); }
LATHE_HOOK(1)
LATHE_HOOK(2)
LATHE_HOOK(4)
LATHE_HOOK(8)
LATHE_HOOK(16)
#undef LATHE_HOOK
void __tsan_read_range(void* p, size_t n) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, false); }
void __tsan_write_range(void* p, size_t n) { if (shim::g_in_kernel) shim::access(uintptr_t(p), n, true); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
// Host code of the same files (static guards, reference counts) is instrumented too; kernels use no atomics.
#define LATHE_ATOMICS(bits, T)                                                                                       \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }            \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }            \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }  \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {                            \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                          \
  }
LATHE_ATOMICS(8, uint8_t)
LATHE_ATOMICS(16, uint16_t)
LATHE_ATOMICS(32, uint32_t)
LATHE_ATOMICS(64, uint64_t)
#undef LATHE_ATOMICS
}
#endif
