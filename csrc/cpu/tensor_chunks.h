// Many tensors as one list of work: each is cut into chunks of a fixed size, and the chunks of all tensors are shared
// out together. The cut depends on the sizes alone, so sums kept per chunk have the same bits for any number of
// threads.
#pragma once
#include "blocks.h"
#include "flat.h"

namespace sg {

class TensorChunks {
 public:
  static constexpr int64_t kElements = 16384;

  // The first `n` tensors of the list. Occupies the scratch slot for its life.
  TensorChunks(Ins tensors, int n, Scratch slot) : tensors_(n), first_(scratch<int64_t>(slot, size_t(n) + 1)) {
    int64_t elements = 0;
    first_[0] = 0;
    for (int i = 0; i < n; i++) {
      const int64_t size = tensors[i].numel();
      first_[i + 1] = first_[i] + (size + kElements - 1) / kElements;
      elements += size;
    }
    // Below about 20 microseconds of work a parallel region costs more than it gives.
    grain_ = elements < 2 * kElements ? std::max<int64_t>(1, count()) : 1;
  }

  int64_t count() const { return first_[tensors_]; }
  // The chunks of tensor i are [first(i), first(i + 1)).
  int64_t first(int i) const { return first_[i]; }

  // f(chunk, tensor, first element)
  template <class F>
  void parallel(const F& f) const {
    parallel_for(count(), grain_, [&](int64_t begin, int64_t end) {
      int i = int(std::upper_bound(first_, first_ + tensors_ + 1, begin) - first_) - 1;
      for (int64_t chunk = begin; chunk < end; chunk++) {
        while (chunk >= first_[i + 1]) i++;
        f(chunk, i, (chunk - first_[i]) * kElements);
      }
    });
  }

 private:
  int tensors_;
  int64_t* first_;
  int64_t grain_;
};

// Elements of a tensor of any float kind and strides, a block at a time, in the type A: in place where they already are
// A and neighbours, otherwise in `buffer`, from where close() writes them back.
template <class A>
class BlockAccess {
 public:
  static constexpr int64_t kElements = 1024;

  explicit BlockAccess(const View& v) : view_(v), plain_(v.dtype == DTypeOf<A>::value && v.contiguous()) {}

  A* open(int64_t begin, int64_t n, A* buffer) const {
    if (plain_) return view_.ptr<A>() + begin;
    const LoadBlock load = block_loader(view_.dtype, DTypeOf<A>::value);
    A* to = buffer;
    Flat(view_).stretches(begin, n, [&](int64_t offset, int64_t stride, int64_t count) {
      load({address(view_.data, offset, view_.dtype), 0, stride}, 1, count, to);
      to += count;
    });
    return buffer;
  }

  void close(int64_t begin, int64_t n, const A* buffer) const {
    if (!plain_) store(begin, n, buffer);
  }

  void store(int64_t begin, int64_t n, const A* from) const {
    const StoreBlock store = block_storer(DTypeOf<A>::value, view_.dtype);
    Flat(view_).stretches(begin, n, [&](int64_t offset, int64_t stride, int64_t count) {
      store(from, 1, count, {address(view_.data, offset, view_.dtype), 0, stride});
      from += count;
    });
  }

 private:
  const View& view_;
  bool plain_;
};

}  // namespace sg
