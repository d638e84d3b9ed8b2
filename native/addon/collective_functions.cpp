// Functions about the world that the process belongs to: world, joinMpiWorld, leaveWorld. Exchanges of bytes are methods
// of a session, because they happen on its engine's thread.
#include "addon/convert.h"
#include "addon/functions.h"
#include "lathe/collective.h"

namespace lathe::addon {

namespace {

Napi::Value world(const Napi::CallbackInfo& info) {
  Collective& joined = Collective::process();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("rank", joined.rank());
  out.Set("size", joined.size());
  out.Set("library", joined.name());
  return out;
}

// (libraries, rank, size)
Napi::Value join(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<std::string> libraries = read_strings(env, info[0], "libraries");
  const int rank = static_cast<int>(read_size(env, info[1], "rank"));
  const int size = static_cast<int>(read_size(env, info[2], "size"));
  check(env, join_mpi_world(libraries, rank, size));
  return world(info);
}

Napi::Value leave(const Napi::CallbackInfo& info) {
  leave_world();
  return info.Env().Undefined();
}

LATHE_ADDON_FUNCTION("world", world);
LATHE_ADDON_FUNCTION("joinMpiWorld", join);
LATHE_ADDON_FUNCTION("leaveWorld", leave);

}  // namespace

}  // namespace lathe::addon
