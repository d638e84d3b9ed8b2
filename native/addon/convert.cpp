// Conversions; each checks its value completely before the engine sees it.
#include "addon/convert.h"

#include <cmath>
#include <cstring>

namespace lathe::addon {

namespace {

constexpr double kMaxExact = 9007199254740991.0;
const char* const kDTypeNames[kDTypeCount] = {"f32", "bf16", "f16", "i32", "u8"};

[[noreturn]] void throw_config(Napi::Env env, const std::string& message) {
  throw_status(env, {"ERR_CONFIG", message});
}

struct ArrayKind {
  napi_typedarray_type kind;
  const char* name;
  size_t bytes;
};
constexpr ArrayKind kArrayKinds[] = {
    {napi_int8_array, "Int8Array", 1},       {napi_uint8_array, "Uint8Array", 1},
    {napi_uint8_clamped_array, "Uint8ClampedArray", 1}, {napi_int16_array, "Int16Array", 2},
    {napi_uint16_array, "Uint16Array", 2},   {napi_int32_array, "Int32Array", 4},
    {napi_uint32_array, "Uint32Array", 4},   {napi_float32_array, "Float32Array", 4},
    {napi_float64_array, "Float64Array", 8}, {napi_bigint64_array, "BigInt64Array", 8},
    {napi_biguint64_array, "BigUint64Array", 8},
};

const ArrayKind* find_kind(napi_typedarray_type kind) {
  for (const ArrayKind& entry : kArrayKinds)
    if (entry.kind == kind) return &entry;
  return nullptr;
}

napi_typedarray_type kind_of(DType dtype) {
  switch (dtype) {
    case DType::F32: return napi_float32_array;
    case DType::I32: return napi_int32_array;
    case DType::U8: return napi_uint8_array;
    case DType::BF16:
    case DType::F16: return napi_uint16_array;
  }
  return napi_uint8_array;
}

DType read_dtype(Napi::Env env, Napi::Value value, const std::string& name) {
  const std::string text = read_string(env, value, "dtype");
  for (int i = 0; i < kDTypeCount; i++)
    if (text == kDTypeNames[i]) return static_cast<DType>(i);
  throw_status(env, {"ERR_DTYPE", "state '" + name + "': expected one of f32, bf16, f16, i32, u8, received '" + text + "'"});
}

}  // namespace

Napi::Value to_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, status.code()));
  return error.Value();
}

void throw_status(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, status.code()));
  throw error;
}

const char* dtype_name(DType dtype) { return kDTypeNames[static_cast<int>(dtype)]; }

Napi::Array shape_array(Napi::Env env, const TensorType& type) {
  Napi::Array shape = Napi::Array::New(env, static_cast<size_t>(type.rank));
  for (int i = 0; i < type.rank; i++) {
    shape.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(type.shape[i])));
  }
  return shape;
}

Napi::Object port_object(Napi::Env env, const std::string& name, const TensorType& type) {
  Napi::Object port = Napi::Object::New(env);
  port.Set("name", name);
  port.Set("dtype", dtype_name(type.dtype));
  port.Set("shape", shape_array(env, type));
  return port;
}

std::string read_string(Napi::Env env, Napi::Value value, const char* what) {
  if (!value.IsString()) throw_config(env, std::string(what) + ": expected a string");
  return value.As<Napi::String>().Utf8Value();
}

uint64_t read_size(Napi::Env env, Napi::Value value, const char* what) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= kMaxExact) || number != std::floor(number)) {
    throw_config(env, std::string(what) + ": expected a non-negative integer");
  }
  return static_cast<uint64_t>(number);
}

std::vector<std::string> read_strings(Napi::Env env, Napi::Value value, const char* what) {
  if (!value.IsArray()) throw_config(env, std::string(what) + ": expected an array of strings");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); i++) out.push_back(read_string(env, array.Get(i), what));
  return out;
}

std::vector<StateSpec> read_slots(Napi::Env env, Napi::Value value) {
  if (!value.IsArray()) throw_config(env, "slots: expected an array of {name, dtype, shape}");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<StateSpec> out;
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::HandleScope scope(env);
    Napi::Value item = array.Get(i);
    if (!item.IsObject()) throw_config(env, "slots: expected {name, dtype, shape}");
    Napi::Object slot = item.As<Napi::Object>();
    StateSpec spec;
    spec.name = read_string(env, slot.Get("name"), "name");
    spec.type.dtype = read_dtype(env, slot.Get("dtype"), spec.name);
    Napi::Value shape = slot.Get("shape");
    if (!shape.IsArray()) throw_config(env, "state '" + spec.name + "': expected a shape");
    Napi::Array extents = shape.As<Napi::Array>();
    if (extents.Length() > static_cast<uint32_t>(kMaxRank)) {
      throw_status(env, {"ERR_SHAPE", "state '" + spec.name + "': at most " + std::to_string(kMaxRank) + " axes"});
    }
    spec.type.rank = static_cast<int>(extents.Length());
    double elements = 1;
    for (int axis = 0; axis < spec.type.rank; axis++) {
      const uint64_t extent = read_size(env, extents.Get(static_cast<uint32_t>(axis)), "shape");
      spec.type.shape[axis] = static_cast<int64_t>(extent);
      if (extent > 0) elements *= static_cast<double>(extent);
    }
    if (elements > 70368744177664.0) {  // 2^46, as in decode
      throw_status(env, {"ERR_SHAPE", "state '" + spec.name + "': a tensor of more than 2^46 elements"});
    }
    out.push_back(std::move(spec));
  }
  return out;
}

ArrayView read_array(Napi::Env env, Napi::Value value, const std::string& what) {
  if (!value.IsTypedArray()) throw_status(env, {"ERR_DTYPE", what + ": expected a typed array"});
  ArrayView view;
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer = nullptr;
  size_t offset = 0;
  if (napi_get_typedarray_info(env, value, &view.kind, &length, &data, &buffer, &offset) != napi_ok) {
    throw_status(env, {"ERR_DTYPE", what + ": this kind of array cannot be read"});
  }
  const ArrayKind* kind = find_kind(view.kind);
  if (!kind) throw_status(env, {"ERR_DTYPE", what + ": this kind of array cannot be read"});
  view.data = static_cast<uint8_t*>(data);
  view.bytes = view.data ? length * kind->bytes : 0;
  return view;
}

Status check_element_type(const ArrayView& view, DType dtype, const std::string& what) {
  const napi_typedarray_type expected = kind_of(dtype);
  if (view.kind == expected) return ok_status();
  return {"ERR_DTYPE", what + ": expected a " + find_kind(expected)->name + " for " + dtype_name(dtype) +
                           ", received a " + find_kind(view.kind)->name};
}

Napi::Value make_array(Napi::Env env, const TensorType& type, uint8_t** data) {
  // Node 20 aborts on larger buffers in some configurations; a step never returns this much.
  constexpr int64_t kMost = (int64_t{1} << 32) - 1;
  if (type.bytes() > kMost) {
    throw_status(env, {"ERR_UNSUPPORTED", "one array of more than 4 GiB: read it in parts"});
  }
  void* memory = nullptr;
  napi_value buffer = nullptr, array = nullptr;
  if (napi_create_arraybuffer(env, static_cast<size_t>(type.bytes()), &memory, &buffer) != napi_ok ||
      napi_create_typedarray(env, kind_of(type.dtype), static_cast<size_t>(type.numel()), buffer, 0, &array) != napi_ok) {
    throw_status(env, {"ERR_PLAN_MEMORY", "JavaScript cannot allocate a result of " + std::to_string(type.bytes()) + " bytes"});
  }
  *data = static_cast<uint8_t*>(memory);
  return Napi::Value(env, array);
}

}  // namespace lathe::addon
