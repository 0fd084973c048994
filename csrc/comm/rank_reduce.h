// The arithmetic of collectives, the same for every transport: element by element, in rank order.
#pragma once
#include "group.h"

namespace sg {

// Averages and factors are for floating-point tensors. Throws a DTypeError otherwise.
void check_reduction(const char* op, DType dtype, RankReduce reduce);

// y[i] = the reduction of parts[0][i], parts[1][i], ... for n elements, the same for each of the outputs, which may be
// parts. `factors` has one number a rank (premul-sum).
void reduce_parts(DType dtype, RankReduce reduce, const void* const* parts, const double* factors, int ranks,
                  void* const* y, int outputs, int64_t n);

}  // namespace sg
