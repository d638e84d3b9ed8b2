// Program: what a compiled graph looks like after decoding (docs/architecture.md, "Program bytes").
//
// Plain data. `decode_program` only guarantees that every count, string and index was inside the bytes and that
// the checksum matched; whether the program makes sense is `validate`'s business (native/engine/validate.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lathe/kernel.h"
#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe {

constexpr uint32_t kProgramVersion = 1;
constexpr uint32_t kAbsentBuffer = 0xffffffffu;
constexpr uint64_t kAlignment = 64;  // of every buffer in the arena, of every state slot and constant

struct StateSpec {
  std::string name;
  TensorType type;
};

struct BufferSpec {
  enum class Kind : uint8_t { Arena = 0, State = 1, External = 2, Constant = 3 };
  Kind kind = Kind::Arena;
  TensorType type;
  uint64_t place = 0;  // arena: byte offset; state: index into `states`; constant: byte offset in the blob
};

struct PortSpec {
  std::string name;
  uint32_t buffer = 0;
};

struct NodeSpec {
  std::string op;
  std::string where;
  std::vector<uint32_t> inputs;
  std::vector<uint32_t> outputs;  // kAbsentBuffer for an optional output that nobody reads
  uint64_t scratch_bytes = 0;
  Attributes attributes;
};

struct Program {
  std::string name;
  uint64_t arena_bytes = 0;
  uint64_t scratch_bytes = 0;
  std::vector<StateSpec> states;
  std::vector<BufferSpec> buffers;
  std::vector<PortSpec> inputs;
  std::vector<PortSpec> outputs;
  std::vector<NodeSpec> nodes;
  std::vector<uint8_t> blob;
};

// Reads version-1 program bytes. Never reads outside [data, data + size); allocates at most a small multiple of
// `size`. Fails with ERR_PROGRAM and leaves `out` unspecified.
Status decode_program(const uint8_t* data, size_t size, Program* out);

// IEEE CRC-32 (the polynomial of zlib and PNG).
uint32_t crc32(const uint8_t* data, size_t size);

}  // namespace lathe
