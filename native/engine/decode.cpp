// decode_program: program bytes to `Program`, trusting nothing.
//
// Every read goes through `Reader`, which checks the remaining length first and remembers the first failure, so
// the parsing code reads like the format. A count is checked against the smallest size its items can have before
// anything is reserved: bytes that claim four billion nodes cost nothing.
#include <cstring>
#include <array>

#include "lathe/program.h"

namespace lathe {

namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;  // of one tensor: shapes past this are nonsense, and products stay in int64

// Names become JavaScript property keys and parts of messages: well-formed UTF-8 without NUL, or they would not
// survive the way there and back.
bool is_text(const std::string& text) {
  size_t i = 0;
  while (i < text.size()) {
    const uint8_t lead = static_cast<uint8_t>(text[i++]);
    if (lead == 0) return false;
    if (lead < 0x80) continue;
    const int more = lead >= 0xc2 && lead < 0xe0 ? 1 : lead >= 0xe0 && lead < 0xf0 ? 2 : lead >= 0xf0 && lead < 0xf5 ? 3 : 0;
    if (more == 0 || text.size() - i < static_cast<size_t>(more)) return false;
    uint32_t point = lead & (0x3fu >> more);
    for (int k = 0; k < more; k++) {
      const uint8_t byte = static_cast<uint8_t>(text[i++]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3f);
    }
    const bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    const bool surrogate = point >= 0xd800 && point < 0xe000;
    if (overlong || surrogate || point > 0x10ffff) return false;
  }
  return true;
}

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool ok() const { return error_.empty(); }
  const std::string& error() const { return error_; }
  size_t position() const { return position_; }
  size_t remaining() const { return size_ - position_; }

  void fail(const std::string& message) {
    if (ok()) error_ = message + " at byte " + std::to_string(position_);
  }

  template <class T>
  T number() {
    T value{};
    if (!take(sizeof(T))) return value;
    std::memcpy(&value, data_ + position_ - sizeof(T), sizeof(T));
    return value;
  }

  std::string string() {
    const uint32_t length = number<uint32_t>();
    if (!take(length)) return {};
    std::string text(reinterpret_cast<const char*>(data_ + position_ - length), length);
    if (!is_text(text)) fail("a name that is not UTF-8 text");
    return text;
  }

  // A count of items that each take at least `least` bytes.
  uint32_t count(size_t least) {
    const uint32_t n = number<uint32_t>();
    if (!ok()) return 0;
    if (n > remaining() / least) {
      fail("a count of " + std::to_string(n) + " items does not fit in the " + std::to_string(remaining()) +
           " bytes left");
      return 0;
    }
    return n;
  }

  const uint8_t* bytes(uint64_t length) { return take(length) ? data_ + position_ - length : nullptr; }

 private:
  bool take(uint64_t length) {
    if (!ok()) return false;
    if (length > remaining()) {
      fail("expected " + std::to_string(length) + " more bytes, received " + std::to_string(remaining()));
      return false;
    }
    position_ += length;
    return true;
  }

  const uint8_t* data_;
  size_t size_;
  size_t position_ = 0;
  std::string error_;
};

TensorType read_type(Reader& r) {
  TensorType type;
  const uint8_t dtype = r.number<uint8_t>();
  const uint8_t rank = r.number<uint8_t>();
  if (r.ok() && dtype >= kDTypeCount) r.fail("unknown dtype code " + std::to_string(dtype));
  if (r.ok() && rank > kMaxRank) r.fail("rank " + std::to_string(rank) + " is more than " + std::to_string(kMaxRank));
  if (!r.ok()) return type;
  type.dtype = static_cast<DType>(dtype);
  type.rank = rank;
  // The product over the non-zero axes is bounded too, so that no kernel's partial product can overflow.
  uint64_t elements = 1;
  for (int i = 0; i < rank; i++) {
    const int64_t extent = r.number<int64_t>();
    if (r.ok() && (extent < 0 || static_cast<uint64_t>(extent) > kMaxBytes)) {
      r.fail("extent " + std::to_string(extent) + " of axis " + std::to_string(i) + " is out of range");
    }
    if (!r.ok()) return type;
    type.shape[i] = extent;
    if (extent > 0) {
      if (elements > kMaxBytes / static_cast<uint64_t>(extent)) {
        r.fail("a tensor of more than 2^46 elements");
        return type;
      }
      elements *= static_cast<uint64_t>(extent);
    }
  }
  return type;
}

std::vector<uint32_t> read_buffer_list(Reader& r) {
  const uint32_t n = r.count(4);
  std::vector<uint32_t> out;
  out.reserve(n);
  for (uint32_t i = 0; i < n && r.ok(); i++) out.push_back(r.number<uint32_t>());
  return out;
}

void read_attribute(Reader& r, Attributes* out) {
  std::string key = r.string();
  const uint8_t kind = r.number<uint8_t>();
  Attributes::Value value;
  if (kind == 0) {
    value.number = r.number<double>();
  } else if (kind == 1) {
    value.kind = Attributes::Value::Kind::String;
    value.string = r.string();
  } else if (kind == 2) {
    value.kind = Attributes::Value::Kind::Numbers;
    const uint32_t n = r.count(8);
    value.numbers.reserve(n);
    for (uint32_t i = 0; i < n && r.ok(); i++) value.numbers.push_back(r.number<double>());
  } else {
    r.fail("unknown attribute kind " + std::to_string(kind));
  }
  if (r.ok() && out->has(key)) r.fail("attribute '" + key + "' appears twice");
  if (r.ok()) out->set(std::move(key), std::move(value));
}

NodeSpec read_node(Reader& r) {
  NodeSpec node;
  node.op = r.string();
  node.where = r.string();
  node.inputs = read_buffer_list(r);
  node.outputs = read_buffer_list(r);
  node.scratch_bytes = r.number<uint64_t>();
  const uint32_t n = r.count(5);
  for (uint32_t i = 0; i < n && r.ok(); i++) read_attribute(r, &node.attributes);
  return node;
}

std::vector<PortSpec> read_ports(Reader& r) {
  const uint32_t n = r.count(8);
  std::vector<PortSpec> out;
  out.reserve(n);
  for (uint32_t i = 0; i < n && r.ok(); i++) {
    PortSpec port;
    port.name = r.string();
    port.buffer = r.number<uint32_t>();
    out.push_back(std::move(port));
  }
  return out;
}

void read_body(Reader& r, Program* out) {
  out->name = r.string();
  out->arena_bytes = r.number<uint64_t>();
  out->scratch_bytes = r.number<uint64_t>();

  const uint32_t states = r.count(6);
  out->states.reserve(states);
  for (uint32_t i = 0; i < states && r.ok(); i++) {
    StateSpec state;
    state.name = r.string();
    state.type = read_type(r);
    out->states.push_back(std::move(state));
  }

  const uint32_t buffers = r.count(11);
  out->buffers.reserve(buffers);
  for (uint32_t i = 0; i < buffers && r.ok(); i++) {
    BufferSpec buffer;
    const uint8_t kind = r.number<uint8_t>();
    if (r.ok() && kind > 3) r.fail("unknown buffer kind " + std::to_string(kind));
    buffer.kind = static_cast<BufferSpec::Kind>(kind);
    buffer.type = read_type(r);
    buffer.place = r.number<uint64_t>();
    out->buffers.push_back(buffer);
  }

  out->inputs = read_ports(r);
  out->outputs = read_ports(r);

  const uint32_t nodes = r.count(28);
  out->nodes.reserve(nodes);
  for (uint32_t i = 0; i < nodes && r.ok(); i++) out->nodes.push_back(read_node(r));

  const uint64_t blob = r.number<uint64_t>();
  const uint8_t* bytes = r.bytes(blob);
  if (r.ok() && blob > 0) out->blob.assign(bytes, bytes + blob);
}

}  // namespace

uint32_t crc32(const uint8_t* data, size_t size) {
  // Slicing by 8: programs can carry megabytes of constants, and this runs on the caller's thread.
  static const auto* const tables = [] {
    auto* t = new std::array<std::array<uint32_t, 256>, 8>;
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      (*t)[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
      for (int s = 1; s < 8; s++) (*t)[s][i] = ((*t)[s - 1][i] >> 8) ^ (*t)[0][(*t)[s - 1][i] & 255];
    return t;
  }();
  const auto& t = *tables;
  uint32_t c = 0xffffffffu;
  while (size >= 8) {
    uint32_t lo, hi;
    std::memcpy(&lo, data, 4);
    std::memcpy(&hi, data + 4, 4);
    lo ^= c;
    c = t[7][lo & 255] ^ t[6][(lo >> 8) & 255] ^ t[5][(lo >> 16) & 255] ^ t[4][lo >> 24] ^ t[3][hi & 255] ^
        t[2][(hi >> 8) & 255] ^ t[1][(hi >> 16) & 255] ^ t[0][hi >> 24];
    data += 8;
    size -= 8;
  }
  while (size-- > 0) c = t[0][(c ^ *data++) & 255] ^ (c >> 8);
  return c ^ 0xffffffffu;
}

Status decode_program(const uint8_t* data, size_t size, Program* out) {
  constexpr size_t kHeader = 8;
  constexpr size_t kChecksum = 4;
  if (size < kHeader + kChecksum || std::memcmp(data, "LTHP", 4) != 0) {
    return program_error("program bytes: expected magic 'LTHP', received something else (" + std::to_string(size) +
                         " bytes)");
  }
  uint32_t version = 0;
  std::memcpy(&version, data + 4, 4);
  if (version != kProgramVersion) {
    return program_error("program bytes: expected version " + std::to_string(kProgramVersion) + ", received " +
                         std::to_string(version) + ": compile the program with the same release as the addon");
  }
  uint32_t stored = 0;
  std::memcpy(&stored, data + size - kChecksum, kChecksum);
  if (crc32(data, size - kChecksum) != stored) return program_error("program bytes: checksum mismatch");

  Reader r(data + kHeader, size - kHeader - kChecksum);
  read_body(r, out);
  if (r.ok() && r.remaining() > 0) r.fail(std::to_string(r.remaining()) + " bytes too many");
  if (!r.ok()) return program_error("program bytes: " + r.error());
  return ok_status();
}

}  // namespace lathe
