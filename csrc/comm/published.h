// Published: a value of one writer that others may look at any time without holding it up, and see whole (a sequence
// lock). Zero bytes are a value nobody has written.
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace sg {

template <class T>
class Published {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(uint64_t) == 0);
  using Words = std::array<uint64_t, sizeof(T) / sizeof(uint64_t)>;

 public:
  void store(const T& value) {
    const auto words = std::bit_cast<Words>(value);
    const uint32_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    // each word behind the odd version (fences would do, but ThreadSanitizer does not know them)
    for (size_t i = 0; i < words.size(); i++) words_[i].store(words[i], std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
  }

  // A writer that was stopped in its midst must not stop its readers: they take what is there.
  T load() const {
    Words words;
    read(words);
    return std::bit_cast<T>(words);
  }

  // The same for what must not be wrong.
  std::optional<T> load_whole() const {
    Words words;
    if (!read(words)) return std::nullopt;
    return std::bit_cast<T>(words);
  }

 private:
  bool read(Words& words) const {
    constexpr int kTries = 100;
    for (int i = 0; i < kTries; i++) {
      const uint32_t before = version_.load(std::memory_order_acquire);
      for (size_t j = 0; j < words.size(); j++) words[j] = words_[j].load(std::memory_order_acquire);
      if (before % 2 == 0 && version_.load(std::memory_order_relaxed) == before) return true;
    }
    return false;
  }

  std::atomic<uint32_t> version_;
  std::atomic<uint64_t> words_[sizeof(T) / sizeof(uint64_t)];
};

}  // namespace sg
