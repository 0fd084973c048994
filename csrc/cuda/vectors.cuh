// Vectors of kCount neighbours, loaded and stored as one: 16 bytes where rows and addresses allow it, single elements
// in the same code otherwise.
#pragma once
#include "lanes.cuh"
#include "walk.cuh"

namespace sg::gpu {

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Vector {
  T at[kCount];
};
template <int kCount, class T>
SG_DEVICE Vector<T, kCount> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, kCount>*>(p);
}
template <int kCount, class T>
SG_DEVICE void store_vector(T* p, const Vector<T, kCount>& v) {
  *reinterpret_cast<Vector<T, kCount>*>(p) = v;
}

// f(kCount) for rows of n elements one after another.
template <class T, class F>
void for_vectors(int64_t n, bool aligned, F&& f) {
  constexpr int kCount = Pack<T>::kCount;
  if (aligned && n % kCount == 0) f(std::integral_constant<int, kCount>{});
  else f(std::integral_constant<int, 1>{});
}

// n / by, for n up to `largest`.
class Quotient {
 public:
  Quotient() = default;
  Quotient(int64_t by, int64_t largest) : by_(by), narrow_(by > 0 && std::max(by, largest) < (int64_t(1) << 31)) {
    if (narrow_) divisor_ = Divisor(uint32_t(by));
  }
  SG_DEVICE int64_t operator()(int64_t n) const { return narrow_ ? divisor_.quotient(uint32_t(n)) : n / by_; }

 private:
  int64_t by_ = 1;
  Divisor divisor_;
  bool narrow_ = false;
};

}  // namespace sg::gpu
