// The wrappers of ../ptx.cuh for the emulator. Copies in the background land as late as they may, at the wait, and the
// place is poisoned until then: a wrong count or a missing barrier always shows.
#pragma once
#include "device.h"
#include "../../core/half.h"

namespace sg::emulation {

SG_EMULATION_API void cp_async(void* shared, const void* global, int bytes, int source_bytes);
SG_EMULATION_API uint64_t global_nanoseconds();
SG_EMULATION_API void cp_async_commit();
SG_EMULATION_API void cp_async_wait(int pending);
SG_EMULATION_API void ldmatrix(uint32_t* registers, int matrices, bool transposed, const void* row, Site site);
SG_EMULATION_API void mma_16816(float* acc, const uint32_t* a, uint32_t b0, uint32_t b1, bool bf16, Site site);

}  // namespace sg::emulation

namespace sg::gpu {

SG_DEVICE void named_barrier_sync(int id, int threads, SG_SITE) { emulation::named_barrier(id, threads, true, site); }
SG_DEVICE void named_barrier_arrive(int id, int threads, SG_SITE) {
  emulation::named_barrier(id, threads, false, site);
}

SG_DEVICE void cp_async16(void* shared, const void* global, int source_bytes = 16) {
  emulation::cp_async(shared, global, 16, source_bytes);
}
SG_DEVICE void cp_async8(void* shared, const void* global, int source_bytes = 8) {
  emulation::cp_async(shared, global, 8, source_bytes);
}
SG_DEVICE void cp_async4(void* shared, const void* global, int source_bytes = 4) {
  emulation::cp_async(shared, global, 4, source_bytes);
}
SG_DEVICE void cp_async_commit() { emulation::cp_async_commit(); }
template <int kPending>
SG_DEVICE void cp_async_wait() {
  emulation::cp_async_wait(kPending);
}

SG_DEVICE void ldmatrix_x1(uint32_t& r, const void* row, SG_SITE) { emulation::ldmatrix(&r, 1, false, row, site); }
SG_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row, SG_SITE) { emulation::ldmatrix(r, 2, false, row, site); }
SG_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row, SG_SITE) { emulation::ldmatrix(r, 4, false, row, site); }
SG_DEVICE void ldmatrix_x1_trans(uint32_t& r, const void* row, SG_SITE) { emulation::ldmatrix(&r, 1, true, row, site); }
SG_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, SG_SITE) {
  emulation::ldmatrix(r, 2, true, row, site);
}
SG_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, SG_SITE) {
  emulation::ldmatrix(r, 4, true, row, site);
}

SG_DEVICE void mma_bf16_16816(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SG_SITE) {
  emulation::mma_16816(acc, a, b0, b1, true, site);
}
SG_DEVICE void mma_f16_16816(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SG_SITE) {
  emulation::mma_16816(acc, a, b0, b1, false, site);
}

SG_DEVICE float fast_exp2(float x) { return exp2f(x); }
SG_DEVICE float fast_log2(float x) { return log2f(x); }
SG_DEVICE int keep_in_loop(int x) { return x; }
SG_DEVICE uint64_t global_nanoseconds() { return emulation::global_nanoseconds(); }
SG_DEVICE uint32_t pack_bf16(float low, float high) { return bfloat16(low).bits | uint32_t(bfloat16(high).bits) << 16; }
SG_DEVICE uint32_t pack_f16(float low, float high) { return float16(low).bits | uint32_t(float16(high).bits) << 16; }

}  // namespace sg::gpu
