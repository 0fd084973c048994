// Lets kernels treat Int, one 64-bit integer, as a register of one lane. No include guard: included by kernel files.

#include "../../ops/functors.h"

template <class T>
struct LaneFor {
  using type = lanes_of<T>;
};
template <>
struct LaneFor<int64_t> {
  using type = Int;
};
// The lane of a memory type: lane_for<bfloat16> is vf, lane_for<int64_t> is Int.
template <class T>
using lane_for = typename LaneFor<T>::type;

template <>
KI Int load<Int, int64_t>(const int64_t* p) {
  return Int(*p);
}
template <>
KI Int load<Int, int64_t>(const int64_t* p, int) {
  return Int(*p);
}
KI void store(int64_t* p, Int a) { *p = a.v; }
KI void store(int64_t* p, Int a, int) { *p = a.v; }
