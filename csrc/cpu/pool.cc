// Pooling of images, one plane a task, in the accumulation type.
#include "../ops/pool.h"
#include "cpu_device.h"
#include "index_walk.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

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
        const PoolAxis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < y.shape[3]; ow++) {
          const PoolAxis::Window cols = pool.w.window(ow);
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
        const PoolAxis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < y.shape[3]; ow++) {
          const PoolAxis::Window cols = pool.w.window(ow);
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
        const PoolAxis::Window rows = pool.h.window(oh);
        for (int64_t ow = 0; ow < dy.shape[3]; ow++) {
          const PoolAxis::Window cols = pool.w.window(ow);
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
