/*
 * What the tests of row primitives share: rows at odd addresses between guard bytes, random values, counted checks, and
 * the walk over the instruction sets that this CPU has.
 */
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../cpu/isa/rows.h"

namespace lathe::test {

inline int g_passed = 0, g_failed = 0;
inline std::mt19937 g_random(7);

inline void check(bool ok, const std::string& what) {
  ok ? ++g_passed : ++g_failed;
  if (!ok && g_failed <= 40) std::printf("FAILED %s\n", what.c_str());
}

inline float from_bits(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t bits_of(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
inline float from_bf16(uint16_t h) { return from_bits(uint32_t(h) << 16); }
inline uint16_t to_bf16(float f) {
  uint32_t u = bits_of(f);
  if (f != f) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// A row of f32 or bf16 at an odd address between guards.
class Row {
 public:
  Row(int type, int64_t n) : type_(type), n_(n), bytes_(size_t(n) * (type ? 2 : 4) + 2 * kGuard, 0xA5) {}
  Row(int type, const std::vector<float>& v) : Row(type, int64_t(v.size())) {
    for (int64_t i = 0; i < n_; i++) set(i, v[size_t(i)]);
  }
  void* at(int64_t i = 0) { return bytes_.data() + kGuard + i * (type_ ? 2 : 4); }
  float get(int64_t i) {
    uint32_t u = 0;
    std::memcpy(&u, at(i), type_ ? 2 : 4);
    return type_ ? from_bf16(uint16_t(u)) : from_bits(u);
  }
  void set(int64_t i, float f) {
    uint32_t u = type_ ? to_bf16(f) : bits_of(f);
    std::memcpy(at(i), &u, type_ ? 2 : 4);
  }
  bool guarded() const {
    for (size_t i = 0; i < kGuard; i++)
      if (bytes_[i] != 0xA5 || bytes_[bytes_.size() - 1 - i] != 0xA5) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 67;
  int type_;
  int64_t n_;
  std::vector<uint8_t> bytes_;
};

inline std::vector<float> normals(int64_t n, float scale = 1) {
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = d(g_random);
  return v;
}

inline std::vector<int64_t> sizes() {
  std::vector<int64_t> s;
  for (int64_t n = 0; n <= 70; n++) s.push_back(n);
  s.push_back(1027);
  return s;
}

const double kHalfUlp[2] = {6.0e-8, 0.00391};
const char* const kTypes[2] = {"f32", "bf16"};

// Runs the tests on every table this CPU has; the exit status.
inline int run_on_every_table(const std::function<void(const cpu::RowOps&)>& tests) {
  int tables = 0;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    const cpu::RowOps* r = cpu::rows_for(isa);
    if (!r) {
      std::printf("%s: not available on this CPU, skipped\n", isa);
      continue;
    }
    std::printf("%s\n", isa);
    check(std::string(r->isa) == isa, "the table's name");
    tables++;
    tests(*r);
  }
  check(tables > 0, "at least one table");
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed ? 1 : 0;
}

}  // namespace lathe::test
