// The kernel contract (docs/architecture.md, "Kernels").
//
// A kernel is found by its op's name when a program loads. `prepare` runs once per node: it checks types,
// consumes every attribute, and leaves what `run` needs in a KernelPlan. `run` may not allocate, block on
// anything but its own stream, or throw. A backend registers kernels with LATHE_KERNEL in the family's file.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe {

// Attributes of one node. Reading one marks it consumed; what stays unread is an error at load time.
class Attributes {
 public:
  struct Value {
    enum class Kind : uint8_t { Number = 0, String = 1, Numbers = 2 } kind = Kind::Number;
    double number = 0;
    std::string string;
    std::vector<double> numbers;
  };

  void set(std::string key, Value value) { values_[std::move(key)] = std::move(value); }
  bool has(const std::string& key) const { return values_.count(key) > 0; }
  // Each getter fails with ERR_PROGRAM when the attribute is absent, of another kind or (integer) not integral.
  Status number(const std::string& key, double* out);
  Status integer(const std::string& key, int64_t* out);
  Status string(const std::string& key, std::string* out);
  Status numbers(const std::string& key, std::vector<double>* out);
  // The names nobody has read.
  std::vector<std::string> unread() const;

 private:
  Status find(const std::string& key, Value::Kind kind, const Value** out);
  std::map<std::string, Value> values_;
  std::set<std::string> read_;
};

// One node as the program describes it. Absent optional outputs have `output_present` false and the extent -1, which
// equals no tensor's: a kernel that expects a type without asking first refuses the node.
struct NodeView {
  std::string op;
  std::string where;  // module path, for error messages
  std::vector<TensorType> inputs;
  std::vector<TensorType> outputs;
  std::vector<bool> output_present;
  int64_t scratch_bytes = 0;  // granted by the plan; prepare fails if the kernel needs more
  Attributes attributes;

  Status fail(const std::string& message) const {
    return {"ERR_PROGRAM", op + (where.empty() ? "" : " (" + where + ")") + ": " + message};
  }
};

// What `prepare` leaves for `run`, and what the validator may rely on.
class KernelPlan {
 public:
  template <class T, class... Args>
  T* emplace(Args&&... args) {
    auto owned = std::make_shared<T>(std::forward<Args>(args)...);
    T* raw = owned.get();
    data_ = owned;
    return raw;
  }
  template <class T>
  const T& get() const { return *static_cast<const T*>(data_.get()); }
  // Declares that output `out` may be written over input `in` (same bytes, same offset).
  void allow_alias(int out, int in) { aliases_.emplace_back(out, in); }
  bool alias_allowed(int out, int in) const {
    for (auto& a : aliases_)
      if (a.first == out && a.second == in) return true;
    return false;
  }

 private:
  std::shared_ptr<void> data_;
  std::vector<std::pair<int, int>> aliases_;
};

// Pointers for one run. Absent outputs are nullptr. All are aligned to 64 bytes, except inputs bound to files.
struct Buffers {
  const void* const* inputs = nullptr;
  void* const* outputs = nullptr;
  void* scratch = nullptr;

  template <class T>
  const T* in(int i) const { return static_cast<const T*>(inputs[i]); }
  template <class T>
  T* out(int i) const { return static_cast<T*>(outputs[i]); }
};

namespace cpu { class Pool; }

// Where work is issued: the CPU backend uses the pool, the CUDA one the stream handle.
struct Stream {
  cpu::Pool* pool = nullptr;
  void* handle = nullptr;
};

struct Kernel {
  const char* op;
  Status (*prepare)(NodeView& node, const DeviceSpec& device, KernelPlan* plan);
  Status (*run)(const KernelPlan& plan, const Buffers& buffers, Stream& stream);
};

// Finds a backend's kernels by name; filled by static registration in the family files.
class Registry {
 public:
  static Registry& of(DeviceSpec::Kind kind);
  void add(const Kernel& kernel);
  const Kernel* find(const std::string& op) const;
  std::vector<std::string> names() const;
  // Names that were registered more than once (the first one counts); a session refuses to start with any.
  const std::vector<std::string>& duplicates() const { return duplicates_; }

 private:
  std::map<std::string, Kernel> kernels_;
  std::vector<std::string> duplicates_;
};

struct KernelRegistration {
  KernelRegistration(DeviceSpec::Kind kind, const Kernel& kernel) { Registry::of(kind).add(kernel); }
};

#define LATHE_CPU_KERNEL(name, prepare, run) \
  static const ::lathe::KernelRegistration lathe_cpu_##name(::lathe::DeviceSpec::Kind::Cpu, {#name, prepare, run})

}  // namespace lathe
