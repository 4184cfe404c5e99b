// Things as bytes and back. Writer and Reader are called with the same fields in the same order, so that one
// function a type, fields(io, thing), says what it is made of for both.
//
// Integers are little-endian; strings and lists carry their length first; kinds and flags are one byte each.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace onnxprune::ep {

// The last of a kind's values, to be specialised: bytes that say more are damaged.
template <typename E>
constexpr E kLast = E::unknown;

template <typename Io, typename T>
using Its = std::conditional_t<Io::kReads, T, const T>;

class Writer {
 public:
  static constexpr bool kReads = false;
  template <typename... Ts>
  void operator()(const Ts&... values) {
    (put(values), ...);
  }
  std::string bytes;

 private:
  void raw(const void* data, size_t size) { bytes.append(static_cast<const char*>(data), size); }
  template <typename T>
  void put(const T& value) {
    if constexpr (std::is_same_v<T, bool> || std::is_enum_v<T>) {
      static_assert(sizeof(T) == 1);
      bytes += static_cast<char>(value);
    } else if constexpr (std::is_arithmetic_v<T>) {
      raw(&value, sizeof value);
    } else {
      fields(*this, value);
    }
  }
  template <typename T>
  void put(const std::shared_ptr<const T>& value) {
    put(*value);
  }
  void put(const std::string& text) {
    put<uint64_t>(text.size());
    bytes += text;
  }
  template <typename T>
  void put(const std::vector<T>& list) {
    put<uint64_t>(list.size());
    if constexpr (std::is_trivially_copyable_v<T>) {
      raw(list.data(), list.size() * sizeof(T));
    } else {
      for (const T& value : list) put(value);
    }
  }
};

// Throws std::invalid_argument where bytes are no such thing.
class Reader {
 public:
  static constexpr bool kReads = true;
  Reader(const char* data, size_t size) : at_(data), left_(size) {}
  template <typename... Ts>
  void operator()(Ts&... values) {
    (get(values), ...);
  }
  template <typename T>
  T next() {
    T value;
    get(value);
    return value;
  }
  uint64_t left() const { return left_; }

 private:
  const char* take(uint64_t size) {
    if (size > left_) throw std::invalid_argument("cut short");
    const char* data = at_;
    at_ += size;
    left_ -= size;
    return data;
  }
  // A length, of things of so many bytes at least.
  size_t length(size_t each) {
    const auto count = next<uint64_t>();
    if (count > left_ / each) throw std::invalid_argument("list too long");
    return static_cast<size_t>(count);
  }
  template <typename T>
  void get(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      value = *take(1) != 0;
    } else if constexpr (std::is_enum_v<T>) {
      const auto raw = static_cast<uint8_t>(*take(1));
      if (raw > static_cast<uint8_t>(kLast<T>)) throw std::invalid_argument("unknown kind");
      value = static_cast<T>(raw);
    } else if constexpr (std::is_arithmetic_v<T>) {
      std::memcpy(&value, take(sizeof value), sizeof value);
    } else {
      fields(*this, value);
    }
  }
  template <typename T>
  void get(std::shared_ptr<const T>& value) {
    auto made = std::make_shared<T>();
    get(*made);
    value = std::move(made);
  }
  void get(std::string& text) {
    const size_t size = length(1);
    text.assign(take(size), size);
  }
  template <typename T>
  void get(std::vector<T>& list) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      list.resize(length(sizeof(T)));
      if (!list.empty()) std::memcpy(list.data(), take(list.size() * sizeof(T)), list.size() * sizeof(T));
    } else {
      for (size_t count = length(1); count > 0; --count) get(list.emplace_back());
    }
  }

  const char* at_;
  uint64_t left_;
};

}  // namespace onnxprune::ep
