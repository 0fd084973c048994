#include "upload.h"

#include <algorithm>
#include <cstring>

#include "gpu.cuh"

namespace sg::gpu {

namespace {

// All parameters of a kernel together may have 4 KiB.
constexpr int kThreads = 252, kWordsOfThread = 2, kWords = kThreads * kWordsOfThread;
struct Piece {
  uint64_t words[kWords];
};

__global__ void __launch_bounds__(kThreads) upload_kernel(uint64_t* to, int words, Piece piece) {
#pragma unroll
  for (int k = 0; k < kWordsOfThread; k++) {
    const int i = threadIdx.x + k * kThreads;
    if (i < words) to[i] = piece.words[i];
  }
}

}  // namespace

void upload(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  SG_ASSERT(bytes % sizeof(uint64_t) == 0);
  Piece piece;
  for (size_t done = 0; done < bytes; done += sizeof piece) {
    const size_t part = std::min(bytes - done, sizeof piece);
    std::memcpy(&piece, static_cast<const char*>(from) + done, part);
    const int words = int(part / sizeof(uint64_t));
    launch(upload_kernel, 1, kThreads, 0, stream, static_cast<uint64_t*>(to) + done / sizeof(uint64_t), words, piece);
  }
}

}  // namespace sg::gpu
