// Marks functions that kernels of a GPU call too.
#pragma once

#ifdef __CUDACC__
#define SG_HOST_DEVICE __host__ __device__
#else
#define SG_HOST_DEVICE
#endif
