// Pooling of images, one plane a task. A window that reaches past the far border (ceil mode) is cut there; as in
// PyTorch an average that counts the padding still does not count what lies beyond it.
#include "cpu_device.h"
#include "index_plan.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

struct Axis {
  int64_t size, kernel, stride, pad;
  struct Window {
    int64_t begin, end;  // within the image
    int64_t padded;      // length within the padded image
  };
  Window window(int64_t output) const {
    const int64_t begin = output * stride - pad, end = std::min(begin + kernel, size + pad);
    return {std::max<int64_t>(begin, 0), std::min(end, size), end - begin};
  }
};

struct Pool {
  Axis h, w;
  bool count_include_pad;
  int64_t divisor(const Axis::Window& rows, const Axis::Window& cols) const {
    if (count_include_pad) return rows.padded * cols.padded;
    return (rows.end - rows.begin) * (cols.end - cols.begin);
  }
};

int64_t positive(double v, int64_t least) {
  SG_ASSERT(v >= double(least) && v < 1e9);
  return int64_t(v);
}

// `x` and `y` are images before and after pooling. Every window holds at least one element of the image.
Pool pool_of(In x, In y, Rest geometry, int count) {
  SG_ASSERT(geometry.count == count && x.ndim == 4 && y.ndim == 4 && x.dtype == y.dtype);
  SG_ASSERT(x.shape[0] == y.shape[0] && x.shape[1] == y.shape[1]);
  Pool pool;
  pool.count_include_pad = count > 6 && geometry[6] != 0;
  for (int a = 0; a < 2; a++) {
    Axis& axis = a == 0 ? pool.h : pool.w;
    axis = {x.shape[2 + a], positive(geometry[a], 1), positive(geometry[2 + a], 1), positive(geometry[4 + a], 0)};
    const int64_t outputs = y.shape[2 + a];
    SG_ASSERT(2 * axis.pad <= axis.kernel);
    SG_ASSERT(outputs == 0 || (axis.size > 0 && (outputs - 1) * axis.stride - axis.pad < axis.size));
  }
  return pool;
}

// Runs f(plane) for every plane of x; `work` elements each.
template <class F>
void each_plane(In x, int64_t work, const F& f) {
  parallel_for(x.shape[0] * x.shape[1], std::max<int64_t>(1, 16384 / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t p = begin; p < end; p++) f(p);
               });
}

}  // namespace

void CpuDevice::maxPool2d(In x, Out y, Out indices, Rest geometry) {
  const Pool pool = pool_of(x, y, geometry, 6);
  SG_ASSERT(indices.ndim == 4 && indices.dtype == DType::k_int64);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == y.shape[d]);
  const int64_t height = x.shape[2], width = x.shape[3];
  dispatch_float("maxPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    each_plane(x, height * width, [&](int64_t p) {
      A* const image = scratch<A>(Scratch::kLocalA, size_t(height * width));
      load_plane<T>(x, p, image, width);
      T* const to = plane<T>(y, p);
      int64_t* const to_index = plane<int64_t>(indices, p);
      for (int64_t oh = 0; oh < y.shape[2]; oh++) {
        const Axis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < y.shape[3]; ow++) {
          const Axis::Window cols = pool.w.window(ow);
          int64_t index = rows.begin * width + cols.begin;
          A best = image[index];
          for (int64_t h = rows.begin; h < rows.end; h++) {
            for (int64_t i = h * width + cols.begin; i < h * width + cols.end; i++) {
              // A greater value or the first NaN; nothing follows a NaN.
              if (!(image[i] <= best) && best == best) best = image[i], index = i;
            }
          }
          to[oh * y.strides[2] + ow * y.strides[3]] = T(best);
          to_index[oh * indices.strides[2] + ow * indices.strides[3]] = index;
        }
      }
    });
  });
}

void CpuDevice::maxPool2dBackward(In dy, In indices, Out dx) {
  SG_ASSERT(dy.ndim == 4 && dx.ndim == 4 && indices.ndim == 4 && dy.dtype == dx.dtype);
  SG_ASSERT(indices.dtype == DType::k_int64 && dx.shape[0] == dy.shape[0] && dx.shape[1] == dy.shape[1]);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == dy.shape[d]);
  const int64_t width = dx.shape[3], size = dx.shape[2] * width;
  check_indices("maxPool2dBackward", indices, size);
  dispatch_float("maxPool2dBackward", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    each_plane(dx, size, [&](int64_t p) {
      A* const image = scratch<A>(Scratch::kLocalA, size_t(size));
      std::fill(image, image + size, A(0));
      const T* const from = plane<const T>(dy, p);
      const int64_t* const at = plane<const int64_t>(indices, p);
      for (int64_t oh = 0; oh < dy.shape[2]; oh++) {
        for (int64_t ow = 0; ow < dy.shape[3]; ow++) {
          int64_t index = at[oh * indices.strides[2] + ow * indices.strides[3]];
          if (index < 0) index += size;
          SG_ASSERT(index >= 0 && index < size);  // dx could overlap the indices
          image[index] += A(from[oh * dy.strides[2] + ow * dy.strides[3]]);
        }
      }
      store_plane<T>(image, width, dx, p);
    });
  });
}

void CpuDevice::avgPool2d(In x, Out y, Rest geometry) {
  const Pool pool = pool_of(x, y, geometry, 7);
  const int64_t height = x.shape[2], width = x.shape[3];
  dispatch_float("avgPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    each_plane(x, height * width, [&](int64_t p) {
      A* const image = scratch<A>(Scratch::kLocalA, size_t(height * width));
      load_plane<T>(x, p, image, width);
      T* const to = plane<T>(y, p);
      for (int64_t oh = 0; oh < y.shape[2]; oh++) {
        const Axis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < y.shape[3]; ow++) {
          const Axis::Window cols = pool.w.window(ow);
          A sum = 0;
          for (int64_t h = rows.begin; h < rows.end; h++) {
            for (int64_t w = cols.begin; w < cols.end; w++) sum += image[h * width + w];
          }
          to[oh * y.strides[2] + ow * y.strides[3]] = T(sum / A(pool.divisor(rows, cols)));
        }
      }
    });
  });
}

void CpuDevice::avgPool2dBackward(In dy, Out dx, Rest geometry) {
  const Pool pool = pool_of(dx, dy, geometry, 7);
  const int64_t width = dx.shape[3], size = dx.shape[2] * width;
  dispatch_float("avgPool2dBackward", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    each_plane(dx, size, [&](int64_t p) {
      A* const image = scratch<A>(Scratch::kLocalA, size_t(size));
      std::fill(image, image + size, A(0));
      const T* const from = plane<const T>(dy, p);
      for (int64_t oh = 0; oh < dy.shape[2]; oh++) {
        const Axis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < dy.shape[3]; ow++) {
          const Axis::Window cols = pool.w.window(ow);
          const A share = A(from[oh * dy.strides[2] + ow * dy.strides[3]]) / A(pool.divisor(rows, cols));
          for (int64_t h = rows.begin; h < rows.end; h++) {
            for (int64_t w = cols.begin; w < cols.end; w++) image[h * width + w] += share;
          }
        }
      }
      store_plane<T>(image, width, dx, p);
    });
  });
}

}  // namespace sg
