// Status: how native code reports failure. Nothing native aborts, exits or throws across a kernel.
// `code` is one of the LatheError codes of src/errors.ts.
#pragma once
#include <string>
#include <utility>

namespace lathe {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == nullptr; }
  const char* code() const { return code_ ? code_ : ""; }
  const std::string& message() const { return message_; }

 private:
  const char* code_ = nullptr;  // a string literal
  std::string message_;
};

inline Status ok_status() { return {}; }
inline Status program_error(std::string m) { return {"ERR_PROGRAM", std::move(m)}; }
inline Status device_error(std::string m) { return {"ERR_DEVICE", std::move(m)}; }

#define LATHE_TRY(expr)                       \
  do {                                        \
    ::lathe::Status lathe_status_ = (expr);   \
    if (!lathe_status_.ok()) return lathe_status_; \
  } while (0)

}  // namespace lathe
