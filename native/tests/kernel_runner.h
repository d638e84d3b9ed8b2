/*
 * Runs one CPU kernel the way the engine does: prepare, exactly the scratch it asks for, run. For native tests.
 *
 * The grant is found by asking: prepare with 0 bytes names the need in its message, which also tests that it refuses.
 * Scratch and absent rows are filled with NaN patterns first, so that reading what was never written shows.
 */
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../cpu/pool.h"
#include "lathe/kernel.h"

namespace lathe::test {

inline uint16_t to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

// A tensor by value, its bytes on a 64-byte boundary.
class Value {
 public:
  Value() = default;
  Value(const Value& other) { *this = other; }
  Value& operator=(const Value& other) {  // a copy's memory may be aligned elsewhere
    if (this == &other) return *this;
    type_ = other.type_;
    memory_.assign(other.memory_.size(), 0xff);
    if (!memory_.empty()) std::memcpy(data(), other.data(), static_cast<size_t>(type_.bytes()));
    return *this;
  }
  Value(DType dtype, std::vector<int64_t> shape) {
    type_.dtype = dtype;
    type_.rank = static_cast<int>(shape.size());
    for (size_t i = 0; i < shape.size(); i++) type_.shape[i] = shape[i];
    memory_.assign(static_cast<size_t>(type_.bytes()) + 64, 0xff);
  }
  static Value floats(DType dtype, std::vector<int64_t> shape, const std::vector<float>& data) {
    Value v(dtype, std::move(shape));
    for (size_t i = 0; i < data.size(); i++) v.set(static_cast<int64_t>(i), data[i]);
    return v;
  }
  static Value ints(const std::vector<int32_t>& data) {
    Value v(DType::I32, {static_cast<int64_t>(data.size())});
    std::memcpy(v.data(), data.data(), data.size() * 4);
    return v;
  }
  const TensorType& type() const { return type_; }
  void* data() { return align(memory_.data()); }
  const void* data() const { return align(const_cast<uint8_t*>(memory_.data())); }
  float get(int64_t i) const {
    return type_.dtype == DType::BF16 ? from_bf16(static_cast<const uint16_t*>(data())[i])
                                      : static_cast<const float*>(data())[i];
  }
  void set(int64_t i, float x) {
    if (type_.dtype == DType::BF16) static_cast<uint16_t*>(data())[i] = to_bf16(x);
    else static_cast<float*>(data())[i] = x;
  }
  bool same_bytes(const Value& other) const {
    return type_.bytes() == other.type_.bytes() && std::memcmp(data(), other.data(), type_.bytes()) == 0;
  }

 private:
  static void* align(void* p) {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
  }
  TensorType type_;
  std::vector<uint8_t> memory_;
};

inline void set_number(Attributes& a, const char* key, double x) {
  Attributes::Value v;
  v.number = x;
  a.set(key, v);
}

// A prepared kernel, ready to run again and again.
class Op {
 public:
  Op(const std::string& name, const Attributes& attributes, std::vector<Value*> inputs, std::vector<Value*> outputs,
     std::vector<TensorType> output_types, int threads)
      : inputs_(inputs), outputs_(outputs) {
    kernel_ = Registry::of(DeviceSpec::Kind::Cpu).find(name);
    if (kernel_ == nullptr) fail(name, "no such kernel");
    NodeView node;
    node.op = name;
    for (Value* v : inputs) node.inputs.push_back(v->type());
    node.outputs = output_types;
    for (Value* v : outputs) node.output_present.push_back(v != nullptr);
    node.attributes = attributes;
    DeviceSpec device;
    device.threads = threads;
    NodeView asked = node;
    KernelPlan ignored;
    const Status refused = kernel_->prepare(asked, device, &ignored);
    if (!refused.ok()) {
      const size_t at = refused.message().find(" bytes of scratch");
      if (at == std::string::npos) fail(name, refused.message());
      const size_t from = refused.message().rfind(' ', at - 1);
      node.scratch_bytes = std::atoll(refused.message().c_str() + from);
    }
    scratch_bytes = node.scratch_bytes;
    const Status status = kernel_->prepare(node, device, &plan_);
    if (!status.ok()) fail(name, status.message());
    if (!node.attributes.unread().empty()) fail(name, "unread attribute " + node.attributes.unread()[0]);
    scratch_.assign(static_cast<size_t>(node.scratch_bytes) + 128, 0xff);
  }

  void run(cpu::Pool& pool) {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (Value* v : inputs_) in.push_back(v->data());
    for (Value* v : outputs_) out.push_back(v ? v->data() : nullptr);
    uint8_t* scratch = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(scratch_.data()) + 63) & ~uintptr_t{63});
    uint8_t* fence = scratch + scratch_bytes;
    std::memset(fence, 0xa5, 32);
    Buffers buffers{in.data(), out.data(), scratch};
    Stream stream{&pool, nullptr};
    const Status status = kernel_->run(plan_, buffers, stream);
    if (!status.ok()) fail(kernel_->op, status.message());
    for (int i = 0; i < 32; i++)
      if (fence[i] != 0xa5) fail(kernel_->op, "wrote past its scratch");
  }

  int64_t scratch_bytes = 0;

 private:
  [[noreturn]] static void fail(const std::string& op, const std::string& why) {
    std::fprintf(stderr, "%s: %s\n", op.c_str(), why.c_str());
    std::exit(1);
  }
  const Kernel* kernel_;
  KernelPlan plan_;
  std::vector<Value*> inputs_, outputs_;
  std::vector<uint8_t> scratch_;
};

// xorshift64* to a normal-ish value: a sum of uniforms, reproducible everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : s_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t next() {
    s_ ^= s_ >> 12, s_ ^= s_ << 25, s_ ^= s_ >> 27;
    return s_ * 0x2545f4914f6cdd1dull;
  }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  float normal() {
    float x = 0;
    for (int i = 0; i < 12; i++) x += uniform();
    return x - 6;
  }
  std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = normal() * scale;
    return v;
  }

 private:
  uint64_t s_;
};

}  // namespace lathe::test
