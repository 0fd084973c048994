// The converting loads and stores, found by dtype once an operation.
#include "blocks.h"

#include "../core/cast.h"
#include "nest.h"

#define SG_KERNELS "../kernels/blocks.h"
#include "simd/for_each_isa.h"

namespace sg {

LoadBlock block_loader(DType dtype, DType lane) { return SG_ISA_CALL(find_loader, dtype, lane); }
StoreBlock block_storer(DType lane, DType dtype) { return SG_ISA_CALL(find_storer, lane, dtype); }

}  // namespace sg
