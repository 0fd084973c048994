// The mark of functions that kernels on a GPU call too. Nothing but nvcc knows these qualifiers.
#pragma once

#ifdef __CUDACC__
#define SG_HOST_DEVICE __host__ __device__
#else
#define SG_HOST_DEVICE
#endif
