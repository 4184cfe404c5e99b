// What the sessions of a process share: immutable things, each found by a digest of all that it is made
// from, so that a second session of a model neither makes nor holds them twice.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace onnxprune::ep {

// Stands for some contents within this process. All zero: contents unknown, equal to nothing.
struct Digest {
  std::array<uint64_t, 4> words{};

  bool known() const { return words != std::array<uint64_t, 4>{}; }
  friend bool operator==(const Digest& a, const Digest& b) { return a.words == b.words; }
};

// Makes digests. Its key is drawn at random once per process, so that nobody can prepare two models that
// are taken for one: whatever the contents, the chance is some 2^-127 for each kilobyte of them.
class Hasher {
 public:
  // The number of bytes counts too, so that no two sequences of calls run into each other.
  Hasher& bytes(const void* data, size_t size);
  template <typename T>
  Hasher& put(T value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>, "padding has no value");
    return bytes(&value, sizeof value);
  }
  template <typename T>
  Hasher& list(const std::vector<T>& values) {
    static_assert(std::is_arithmetic_v<T>, "padding has no value");
    return bytes(values.data(), values.size() * sizeof(T));
  }
  Hasher& text(const std::string& s) { return bytes(s.data(), s.size()); }
  Hasher& put(const Digest& digest) { return bytes(digest.words.data(), sizeof digest.words); }
  Digest digest() const;

 private:
  static constexpr size_t kBlock = 1024;
  using Wide = unsigned __int128;

  void append(const void* data, size_t size);
  void block(const unsigned char* data);

  Wide state_[2] = {1, 1};
  uint64_t size_ = 0;
  size_t waiting_ = 0;  // bytes in `buffer_`
  unsigned char buffer_[kBlock];
};

// What sessions made or found last, kept up to so many bytes although none may hold it any more: a model
// that is opened anew then finds it, as the memory that its session takes is still with the process. Any
// thread may call.
class Lately {
 public:
  explicit Lately(size_t most) : most_(most) {}
  // A thing larger than all that may be kept is not.
  void use(std::shared_ptr<const void> thing, size_t bytes);
  size_t bytes() const;

 private:
  struct Entry {
    std::shared_ptr<const void> thing;
    size_t bytes;
  };
  const size_t most_;
  mutable std::mutex mutex_;
  size_t held_ = 0;
  std::list<Entry> order_;  // latest first
  std::unordered_map<const void*, std::list<Entry>::iterator> places_;
};

// That of the process: 128 MiB, or as many as the environment variable ONNXPRUNE_IDLE_MB says.
Lately& lately();

// Keeps no thing alive: it goes with the last that holds it. Any thread may call.
template <typename T>
class Shared {
 public:
  // Null when nobody holds such a thing.
  std::shared_ptr<T> find(const Digest& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = held_.find(key);
    return known == held_.end() ? nullptr : known->second.lock();
  }

  // `made`, for others to find, or what somebody else has brought meanwhile. A `made` that was allocated
  // together with its counts (make_shared) would keep its memory as long as its entry here.
  std::shared_ptr<T> keep(const Digest& key, std::shared_ptr<T> made) {
    if (!key.known()) return made;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (held_.size() >= enough_) {
      for (auto at = held_.begin(); at != held_.end();) at = at->second.expired() ? held_.erase(at) : std::next(at);
      enough_ = 2 * held_.size() + kFew;
    }
    std::weak_ptr<T>& place = held_[key];
    if (std::shared_ptr<T> earlier = place.lock()) return earlier;
    place = made;
    return made;
  }

  size_t entries() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_.size();
  }

 private:
  static constexpr size_t kFew = 64;
  struct Fold {
    size_t operator()(const Digest& digest) const { return static_cast<size_t>(digest.words[0]); }
  };
  std::mutex mutex_;
  std::unordered_map<Digest, std::weak_ptr<T>, Fold> held_;
  size_t enough_ = kFew;  // so many entries are looked through for those that have expired
};

}  // namespace onnxprune::ep
