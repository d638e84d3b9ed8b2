// GGUF's block formats (ggml): how one block of stored bytes becomes floats. fp32 arithmetic in the order that the
// format's definition gives, so values equal those of the gguf Python package bit for bit.
#pragma once
#include <cstdint>
#include <string>

namespace lathe::cpu {

constexpr int64_t kGgmlMaxElements = 256;

struct GgmlFormat {
  const char* name;
  int64_t elements;  // per block, at most kGgmlMaxElements
  int64_t bytes;     // per block
  void (*decode)(const uint8_t* block, float* values);
};

// nullptr when the name is unknown.
const GgmlFormat* ggml_format(const char* name);
std::string ggml_format_names();

}  // namespace lathe::cpu
