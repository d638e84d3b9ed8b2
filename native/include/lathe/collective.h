// What a process does together with the others of its job: a few exchanges of bytes, by whatever carries them.
//
// A process is alone (rank 0 of 1) until it joins a world, and only one world is joined in its life. Exchanges block
// until every rank makes the same call with the same sizes, in the same order; kernels make them on the engine's thread,
// one at a time. Three verbs are enough: an all-reduce is an exchange of slices, a sum in rank order (native/cpu/
// collective.cpp), and a gathering of the sums, so its bits do not depend on who carries the bytes.
//
// An implementation opens its library at run time: nothing here is linked, and a machine without it loads the addon.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lathe/status.h"

namespace lathe {

class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name() const = 0;  // "single", "Open MPI v4.1.4 ..."

  // Slice r of `send` goes to rank r; slice r of `receive` came from it. `size()` slices of `bytes_each` on both sides.
  virtual Status all_to_all(const void* send, void* receive, uint64_t bytes_each) = 0;
  // `all` holds every rank's `mine`, in rank order.
  virtual Status all_gather(const void* mine, void* all, uint64_t bytes_each) = 0;
  // `data` becomes what it is on rank `root`.
  virtual Status broadcast(void* data, uint64_t bytes, int root) = 0;

  // The world of this process; the single one before a world was joined and after it was left.
  static Collective& process();
};

// Joins the world that an MPI launcher (mpirun, srun) made: opens the library, starts it, and checks that it sees the
// rank and size that the launcher promised. `libraries`: paths or file names, the first that opens counts.
// Fails with ERR_UNSUPPORTED (no library; the message says what to install) or ERR_DEVICE.
Status join_mpi_world(const std::vector<std::string>& libraries, int rank, int size);
// Ends the membership in order; every rank must come here. Does nothing when alone or while an exchange is under way.
void leave_world();

// For implementations: what `process()` returns from now on; null is the single one.
void set_process_collective(Collective* collective);

}  // namespace lathe
