// Pooling of images, one plane a task, in the accumulation type: forward with outputs as lanes over padded planes
// (conv_planes.h), backward by scattering into the plane.
#include "../ops/pool.h"
#include "conv_planes.h"
#include "cpu_device.h"
#include "index_walk.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

struct PoolPlanes {
  PoolAxis h, w;
  bool count_include_pad;
  Planes planes;
  bool has_border;
  int64_t taps;
  const int64_t *offsets, *places;  // of a tap for output 0: in the padded plane, in the image

  int64_t length(const PoolAxis::Window& window) const {
    return count_include_pad ? window.padded : window.end - window.begin;
  }
};
constexpr int64_t kNoTap = std::numeric_limits<int64_t>::min();  // a power of two: exact in every lane

}  // namespace sg

#define SG_KERNELS "../kernels/pool.h"
#include "simd/for_each_isa.h"

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

// A negative index counts from the end; another one that is outside is an error.
__attribute__((noinline)) int64_t from_end(In indices, int64_t index, int64_t size) {
  check_indices("maxPool2dBackward", indices, size);
  SG_ASSERT(index >= -size && index < 0);  // else the indices were overwritten: dx overlaps them
  return index + size;
}

PlaneAxis axis(const PoolAxis& a, int64_t outputs) {
  return {a.size, a.pad, (outputs - 1) * a.stride + a.kernel, a.stride};
}
bool reaches_over(const PlaneAxis& a) { return a.before > 0 || a.extent > a.before + a.size; }

// With the taps' tables in the caller's scratch memory.
PoolPlanes planes_of(const Pool& pool, In y) {
  const Planes planes(axis(pool.h, y.shape[2]), axis(pool.w, y.shape[3]));
  const int64_t taps = pool.h.kernel * pool.w.kernel;
  int64_t *const offsets = scratch<int64_t>(Scratch::kSharedA, size_t(2 * taps)), *const places = offsets + taps;
  for (int64_t t = 0; t < taps; t++) {
    const int64_t row = t / pool.w.kernel, column = t % pool.w.kernel;
    offsets[t] = planes.offset(row, column);
    places[t] = (row - pool.h.pad) * pool.w.size + column - pool.w.pad;
  }
  return {pool.h,  pool.w, pool.count_include_pad, planes, reaches_over(planes.h) || reaches_over(planes.w), taps,
          offsets, places};
}

}  // namespace

void CpuDevice::maxPool2d(In x, Out y, Out indices, Rest geometry) {
  const Pool pool = pool_of(x, y, geometry, 6);
  SG_ASSERT(indices.ndim == 4 && indices.dtype == DType::k_int64);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == y.shape[d]);
  if (y.numel() == 0) return;
  const PoolPlanes planes = planes_of(pool, y);
  const bool wide = planes.planes.h.extent * pool.w.size >= 1 << 23;  // places that a float may not hold
  dispatch_float("maxPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    constexpr double kLowest = -std::numeric_limits<double>::infinity();
    each_plane(x, planes.taps * y.shape[2] * y.shape[3], [&](int64_t p) {
      if (wide) SG_ISA_CALL(max_pool<T>, planes, x, y, indices, p, kLowest);
      else SG_ISA_CALL(max_pool<T>, planes, x, y, indices, p, A(kLowest));
    });
  });
}

void CpuDevice::maxPool2dBackward(In dy, In indices, Out dx) {
  SG_ASSERT(dy.ndim == 4 && dx.ndim == 4 && indices.ndim == 4 && dy.dtype == dx.dtype);
  SG_ASSERT(indices.dtype == DType::k_int64 && dx.shape[0] == dy.shape[0] && dx.shape[1] == dy.shape[1]);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == dy.shape[d]);
  const int64_t width = dx.shape[3], size = dx.shape[2] * width;
  const bool flat = dx.shape[2] == 1 || dx.strides[2] == width;
  // Outputs that follow each other everywhere are one row.
  const bool merged =
      dy.strides[2] == dy.shape[3] * dy.strides[3] && indices.strides[2] == dy.shape[3] * indices.strides[3];
  const int64_t height = merged ? 1 : dy.shape[2], outputs = merged ? dy.shape[2] * dy.shape[3] : dy.shape[3];
  dispatch_float("maxPool2dBackward", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const bool in_place = std::is_same_v<T, A> && flat && (dx.strides[3] == 1 || width == 1);
    each_plane(dx, size, [&](int64_t p) {
      A* const image = in_place ? reinterpret_cast<A*>(plane<T>(dx, p)) : scratch<A>(Scratch::kLocalA, size_t(size));
      std::fill(image, image + size, A(0));
      const T* const from = plane<const T>(dy, p);
      const int64_t* const at = plane<const int64_t>(indices, p);
      const auto scatter = [&](auto step, auto index_step) {
        for (int64_t oh = 0; oh < height; oh++) {
          const T* const row = from + oh * dy.strides[2];
          const int64_t* const row_at = at + oh * indices.strides[2];
          for (int64_t ow = 0; ow < outputs; ow++) {
            int64_t index = row_at[ow * index_step];
            if (uint64_t(index) >= uint64_t(size)) index = from_end(indices, index, size);
            image[index] += A(row[ow * step]);
          }
        }
      };
      constexpr std::integral_constant<int64_t, 1> kNext;
      if (dy.strides[3] == 1 && indices.strides[3] == 1) scatter(kNext, kNext);
      else scatter(dy.strides[3], indices.strides[3]);
      if (!in_place) store_plane<T>(image, width, dx, p);
    });
  });
}

void CpuDevice::avgPool2d(In x, Out y, Rest geometry) {
  const Pool pool = pool_of(x, y, geometry, 7);
  if (y.numel() == 0) return;
  const PoolPlanes planes = planes_of(pool, y);
  dispatch_float("avgPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    A* const lengths = scratch<A>(Scratch::kSharedB, size_t(y.shape[3]));
    for (int64_t w = 0; w < y.shape[3]; w++) lengths[w] = A(planes.length(pool.w.window(w)));
    each_plane(x, planes.taps * y.shape[2] * y.shape[3],
               [&](int64_t p) { SG_ISA_CALL(avg_pool<T>, planes, x, y, p, lengths); });
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
