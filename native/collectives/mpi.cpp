// MPI, opened at run time. The two application binary interfaces that clusters have are spoken: Open MPI's, where a
// handle is a pointer to an object that the library exports, and MPICH's (Intel MPI, MVAPICH, Cray), where it is an
// integer of a fixed value (the MPICH ABI compatibility initiative). No header of either is needed, so one build serves
// both: everything is sent as bytes, and four functions of MPI-1 do all the work.
//
// Invariants
// - Errors come back as codes: MPI_ERRORS_RETURN is set on the world right after the start, because MPI's default is to
//   end the process.
// - One call at a time (MPI_THREAD_SERIALIZED) under one mutex; the thread that started the library also ends it.
// - A piece is at most 256 MiB, because MPI-1 counts are 32-bit.
// Sources: MPI 3.1 standard; mpi.h of Open MPI 4 and MPICH 4 for the two ABIs.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "lathe/collective.h"

namespace lathe {

namespace {

constexpr uint64_t kPiece = uint64_t(256) << 20;
constexpr int kThreadSerialized = 2;  // the same in both ABIs
constexpr int kSuccess = 0;

// The functions, for one type of handle.
template <class Handle>
struct Api {
  int (*init_thread)(int*, char***, int, int*) = nullptr;
  int (*initialized)(int*) = nullptr;
  int (*finalize)() = nullptr;
  int (*comm_rank)(Handle, int*) = nullptr;
  int (*comm_size)(Handle, int*) = nullptr;
  int (*set_errhandler)(Handle, Handle) = nullptr;
  int (*alltoall)(const void*, int, Handle, void*, int, Handle, Handle) = nullptr;
  int (*allgather)(const void*, int, Handle, void*, int, Handle, Handle) = nullptr;
  int (*bcast)(void*, int, Handle, int, Handle) = nullptr;
  int (*error_string)(int, char*, int*) = nullptr;
  Handle world{}, byte{}, errors_return{};
};

template <class Function>
bool find(void* library, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  return *out != nullptr;
}

template <class Handle>
bool find_functions(void* library, Api<Handle>* api) {
  return find(library, "MPI_Init_thread", &api->init_thread) && find(library, "MPI_Initialized", &api->initialized) &&
         find(library, "MPI_Finalize", &api->finalize) && find(library, "MPI_Comm_rank", &api->comm_rank) &&
         find(library, "MPI_Comm_size", &api->comm_size) &&
         find(library, "MPI_Comm_set_errhandler", &api->set_errhandler) &&
         find(library, "MPI_Alltoall", &api->alltoall) && find(library, "MPI_Allgather", &api->allgather) &&
         find(library, "MPI_Bcast", &api->bcast) && find(library, "MPI_Error_string", &api->error_string);
}

bool bind(void* library, Api<void*>* api) {  // Open MPI
  api->world = dlsym(library, "ompi_mpi_comm_world");
  api->byte = dlsym(library, "ompi_mpi_byte");
  api->errors_return = dlsym(library, "ompi_mpi_errors_return");
  return api->world && api->byte && api->errors_return && find_functions(library, api);
}
bool bind(void* library, Api<int>* api) {  // MPICH
  api->world = 0x44000000;
  api->byte = 0x4c00010d;
  api->errors_return = 0x54000001;
  return find_functions(library, api);
}

// The library's own description; its first line.
std::string library_version(void* library) {
  int (*version)(char*, int*) = nullptr;
  if (!find(library, "MPI_Get_library_version", &version)) return "MPI";
  std::vector<char> text(8192, '\0');  // MPI_MAX_LIBRARY_VERSION_STRING: 256 in one, 8192 in the other
  int length = 0;
  if (version(text.data(), &length) != kSuccess || length <= 0) return "MPI";
  std::string all(text.data(), size_t(std::min<int>(length, int(text.size()))));
  all = all.substr(0, std::min(all.find('\n'), all.find(',')));
  std::replace(all.begin(), all.end(), '\t', ' ');
  return all;
}

template <class Handle>
class Mpi final : public Collective {
 public:
  Mpi(const Api<Handle>& api, std::string name) : api_(api), name_(std::move(name)) {}

  Status start() {
    int running = 0, provided = 0;
    if (api_.initialized(&running) != kSuccess) return device_error(name_ + ": MPI_Initialized failed");
    if (running) return device_error(name_ + " was already started by somebody else in this process");
    const int code = api_.init_thread(nullptr, nullptr, kThreadSerialized, &provided);
    if (code != kSuccess) return device_error(name_ + ": MPI_Init_thread failed with code " + std::to_string(code));
    LATHE_TRY(check(api_.set_errhandler(api_.world, api_.errors_return), "MPI_Comm_set_errhandler"));
    if (provided < kThreadSerialized) {
      api_.finalize();
      return device_error(name_ + " was built without support for threads (MPI_THREAD_SERIALIZED)");
    }
    LATHE_TRY(check(api_.comm_rank(api_.world, &rank_), "MPI_Comm_rank"));
    return check(api_.comm_size(api_.world, &size_), "MPI_Comm_size");
  }
  // False when an exchange is under way on another thread: then nobody may wait for the others here.
  bool stop() {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    api_.finalize();
    return true;
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override { return name_; }

  Status all_to_all(const void* send, void* receive, uint64_t bytes_each) override {
    if (bytes_each > kPiece) return too_large();
    std::lock_guard<std::mutex> lock(mutex_);
    return check(api_.alltoall(send, int(bytes_each), api_.byte, receive, int(bytes_each), api_.byte, api_.world), "MPI_Alltoall");
  }
  Status all_gather(const void* mine, void* all, uint64_t bytes_each) override {
    if (bytes_each > kPiece) return too_large();
    std::lock_guard<std::mutex> lock(mutex_);
    return check(api_.allgather(mine, int(bytes_each), api_.byte, all, int(bytes_each), api_.byte, api_.world), "MPI_Allgather");
  }
  Status broadcast(void* data, uint64_t bytes, int root) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (uint64_t at = 0; at < bytes; at += kPiece) {
      const int count = int(std::min(kPiece, bytes - at));
      LATHE_TRY(check(api_.bcast(static_cast<char*>(data) + at, count, api_.byte, root, api_.world), "MPI_Bcast"));
    }
    return ok_status();
  }

 private:
  Status check(int code, const char* what) {
    if (code == kSuccess) return ok_status();
    char text[8192] = {0};
    int length = 0;
    api_.error_string(code, text, &length);
    return device_error(std::string(what) + " failed on rank " + std::to_string(rank_) + ": " + text);
  }
  Status too_large() const { return device_error("an exchange of more than 256 MiB per rank in one piece"); }

  const Api<Handle> api_;
  const std::string name_;
  std::mutex mutex_;
  int rank_ = 0, size_ = 1;
};

struct World {
  Collective* collective = nullptr;  // leaked: engine threads may outlive static destructors
  bool (*stop)(Collective*) = nullptr;
};
std::mutex& world_mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}
World& world() {
  static auto* const joined = new World;
  return *joined;
}

template <class Handle>
Status join(void* library, const std::string& path) {
  Api<Handle> api;
  if (!bind(library, &api)) return device_error(path + " lacks functions of MPI 3");
  auto mpi = std::make_unique<Mpi<Handle>>(api, library_version(library) + " (" + path + ")");
  LATHE_TRY(mpi->start());
  world().stop = [](Collective* c) { return static_cast<Mpi<Handle>*>(c)->stop(); };
  world().collective = mpi.release();
  return ok_status();
}

// Open MPI's plugins look for its symbols among the global ones.
void* open_library(const std::string& name) { return dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE); }

}  // namespace

Status join_mpi_world(const std::vector<std::string>& libraries, int rank, int size) {
  std::lock_guard<std::mutex> lock(world_mutex());
  if (world().collective) return device_error("this process has joined a world before");
  void* handle = nullptr;
  std::string opened, tried;
  for (const std::string& name : libraries) {
    if ((handle = open_library(name))) {
      opened = name;
      break;
    }
    tried += (tried.empty() ? "" : ", ") + name;
  }
  if (!handle) {
    return {"ERR_UNSUPPORTED", "no MPI library can be opened (tried " + tried +
                                   "): install Open MPI (apt-get install openmpi-bin libopenmpi3), or set LATHE_MPI_LIBRARY to its libmpi.so"};
  }
  const bool open_mpi = dlsym(handle, "ompi_mpi_comm_world") != nullptr;
  LATHE_TRY(open_mpi ? join<void*>(handle, opened) : join<int>(handle, opened));
  Collective& joined = *world().collective;
  if (joined.rank() != rank || joined.size() != size) {
    return device_error("the launcher made rank " + std::to_string(rank) + " of " + std::to_string(size) + ", but " + joined.name() +
                        " sees rank " + std::to_string(joined.rank()) + " of " + std::to_string(joined.size()) +
                        ": the launcher belongs to another MPI; set LATHE_MPI_LIBRARY to that one's libmpi.so");
  }
  set_process_collective(&joined);
  return ok_status();
}

void leave_world() {
  std::lock_guard<std::mutex> lock(world_mutex());
  World& joined = world();
  if (!joined.collective || !joined.stop || !joined.stop(joined.collective)) return;
  joined.stop = nullptr;
  set_process_collective(nullptr);
}

}  // namespace lathe
