// How the elements of a collective are divided among its ranks.
#pragma once
#include <algorithm>
#include <vector>

#include "../core/view.h"

namespace sg {

// Ranges of elements per rank, one after another.
struct Parts {
  std::vector<int64_t> begin, count;
  int64_t total = 0, largest = 0;

  Parts(const char* op, const double* counts, int ranks) {
    for (int r = 0; r < ranks; r++) {
      const int64_t n = int64_t(counts[r]);
      if (n < 0 || n > int64_t(1) << 50 || double(n) != counts[r])
        fail(ErrorCode::Shape, op, ": ", counts[r], " is not a number of elements");
      add(n);
    }
  }
  // Nearly equal ranges of multiples of `grain`, as far as there are elements.
  Parts(int64_t elements, int ranks, int64_t grain) {
    const int64_t each = (elements / ranks / grain + 1) * grain;
    for (int r = 0; r < ranks; r++) add(std::min(each, elements - total));
  }

 private:
  void add(int64_t n) {
    begin.push_back(total);
    count.push_back(n);
    total += n;
    largest = std::max(largest, n);
  }
};

inline Parts parts_of(const char* op, Rest counts, int ranks) {
  if (counts.count != ranks)
    fail(ErrorCode::Shape, op, ": expects a count for each of ", ranks, " ranks, got ", counts.count);
  return Parts(op, counts.first, ranks);
}

inline void expect_elements(const char* op, const char* what, const View& v, int64_t n) {
  if (v.numel() != n) fail(ErrorCode::Shape, op, ": ", what, " has ", v.numel(), " elements, the counts say ", n);
}

// How many of the elements [at, at + room) a range of `count` has.
inline int64_t within(int64_t count, int64_t at, int64_t room) { return std::clamp<int64_t>(count - at, 0, room); }

inline char* bytes_of(const View& v) { return static_cast<char*>(v.data); }

}  // namespace sg
