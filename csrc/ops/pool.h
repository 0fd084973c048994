// The windows of pooling, checked: the same for every backend. A window that reaches past the far border (ceil mode) is
// cut there; as in PyTorch an average that counts the padding still does not count what lies beyond it.
#pragma once
#include <algorithm>

#include "../core/host_device.h"
#include "../core/view.h"
#include "geometry.h"

namespace sg {

struct PoolAxis {
  int64_t size, kernel, stride, pad;
  struct Window {
    int64_t begin, end;  // within the image
    int64_t padded;      // length within the padded image
  };
  SG_HOST_DEVICE Window window(int64_t output) const {
    const int64_t begin = output * stride - pad, end = std::min(begin + kernel, size + pad);
    return {std::max<int64_t>(begin, 0), std::min(end, size), end - begin};
  }
};

struct Pool {
  PoolAxis h, w;
  bool count_include_pad;
  SG_HOST_DEVICE int64_t divisor(const PoolAxis::Window& rows, const PoolAxis::Window& cols) const {
    if (count_include_pad) return rows.padded * cols.padded;
    return (rows.end - rows.begin) * (cols.end - cols.begin);
  }
};

// `x` and `y` are images before and after pooling. Every window holds at least one element of the image.
inline Pool pool_of(In x, In y, Rest geometry, int count) {
  SG_ASSERT(geometry.count == count && x.ndim == 4 && y.ndim == 4 && x.dtype == y.dtype);
  SG_ASSERT(x.shape[0] == y.shape[0] && x.shape[1] == y.shape[1]);
  Pool pool;
  pool.count_include_pad = count > 6 && geometry[6] != 0;
  for (int a = 0; a < 2; a++) {
    PoolAxis& axis = a == 0 ? pool.h : pool.w;
    axis = {x.shape[2 + a], whole_number(geometry[a], 1), whole_number(geometry[2 + a], 1),
            whole_number(geometry[4 + a], 0)};
    const int64_t outputs = y.shape[2 + a];
    SG_ASSERT(2 * axis.pad <= axis.kernel);
    SG_ASSERT(outputs == 0 || (axis.size > 0 && (outputs - 1) * axis.stride - axis.pad < axis.size));
  }
  return pool;
}

}  // namespace sg
