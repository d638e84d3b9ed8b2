// Between JavaScript values and the engine's types. Functions that read values throw Napi::Error with a LatheError
// code when the value is not what src/runtime/native.d.ts promises.
#pragma once
#include <napi.h>

#include <string>
#include <vector>

#include "lathe/program.h"
#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe::addon {

// An Error with `code`.
Napi::Value to_error(Napi::Env env, const Status& status);
[[noreturn]] void throw_status(Napi::Env env, const Status& status);
inline void check(Napi::Env env, const Status& status) {
  if (!status.ok()) throw_status(env, status);
}

const char* dtype_name(DType dtype);
Napi::Array shape_array(Napi::Env env, const TensorType& type);
// {name, dtype, shape}
Napi::Object port_object(Napi::Env env, const std::string& name, const TensorType& type);

std::string read_string(Napi::Env env, Napi::Value value, const char* what);
// A non-negative integer that a double holds exactly.
uint64_t read_size(Napi::Env env, Napi::Value value, const char* what);
std::vector<std::string> read_strings(Napi::Env env, Napi::Value value, const char* what);
std::vector<StateSpec> read_slots(Napi::Env env, Napi::Value value);

// The memory of any typed array.
struct ArrayView {
  napi_typedarray_type kind = napi_uint8_array;
  uint8_t* data = nullptr;
  size_t bytes = 0;
};
ArrayView read_array(Napi::Env env, Napi::Value value, const std::string& what);
// Fails unless `view` has the element type that stands for `dtype` (Uint16Array for bf16 and f16).
Status check_element_type(const ArrayView& view, DType dtype, const std::string& what);
// A typed array of this type's elements, zero-filled, and where its memory is.
Napi::Value make_array(Napi::Env env, const TensorType& type, uint8_t** data);

}  // namespace lathe::addon
