// Registry, backends and attributes: the pieces of the kernel contract that need a definition.
//
// The tables are leaked on purpose: engine threads may still run while the process exits, so nothing they read
// may have a static destructor.
#include "lathe/backend.h"
#include "lathe/kernel.h"

#include <cmath>

namespace lathe {

namespace {
constexpr int kDeviceKinds = 2;
}

Registry& Registry::of(DeviceSpec::Kind kind) {
  static Registry* const all = new Registry[kDeviceKinds];
  return all[static_cast<int>(kind)];
}

void Registry::add(const Kernel& kernel) {
  if (!kernels_.emplace(kernel.op, kernel).second) duplicates_.push_back(kernel.op);
}

const Kernel* Registry::find(const std::string& op) const {
  auto it = kernels_.find(op);
  return it == kernels_.end() ? nullptr : &it->second;
}

std::vector<std::string> Registry::names() const {
  std::vector<std::string> out;
  for (auto& entry : kernels_) out.push_back(entry.first);
  return out;
}

Backend& Backend::of(DeviceSpec::Kind kind) {
  static Backend* const all = new Backend[kDeviceKinds];
  return all[static_cast<int>(kind)];
}

Status Attributes::find(const std::string& key, Value::Kind kind, const Value** out) {
  static const char* const kNames[] = {"a number", "a string", "a list of numbers"};
  auto it = values_.find(key);
  if (it == values_.end()) return program_error("attribute '" + key + "' is missing");
  read_.insert(key);
  if (it->second.kind != kind) {
    return program_error("attribute '" + key + "' should be " + kNames[static_cast<int>(kind)] + ", received " +
                         kNames[static_cast<int>(it->second.kind)]);
  }
  *out = &it->second;
  return ok_status();
}

Status Attributes::number(const std::string& key, double* out) {
  const Value* value = nullptr;
  LATHE_TRY(find(key, Value::Kind::Number, &value));
  *out = value->number;
  return ok_status();
}

Status Attributes::integer(const std::string& key, int64_t* out) {
  double number = 0;
  LATHE_TRY(this->number(key, &number));
  constexpr double kLimit = 9007199254740992.0;  // 2^53: what a double still holds exactly
  if (!(std::fabs(number) <= kLimit) || number != std::floor(number)) {
    return program_error("attribute '" + key + "' should be an integer, received " + std::to_string(number));
  }
  *out = static_cast<int64_t>(number);
  return ok_status();
}

Status Attributes::string(const std::string& key, std::string* out) {
  const Value* value = nullptr;
  LATHE_TRY(find(key, Value::Kind::String, &value));
  *out = value->string;
  return ok_status();
}

Status Attributes::numbers(const std::string& key, std::vector<double>* out) {
  const Value* value = nullptr;
  LATHE_TRY(find(key, Value::Kind::Numbers, &value));
  *out = value->numbers;
  return ok_status();
}

std::vector<std::string> Attributes::unread() const {
  std::vector<std::string> out;
  for (auto& entry : values_)
    if (!read_.count(entry.first)) out.push_back(entry.first);
  return out;
}

}  // namespace lathe
