// argmax and argmin, which carry an index and have an engine of their own. x has elements.
#pragma once
#include "../ops/reduce.h"

namespace sg {

void arg_reduce(ReduceOp op, const View& x, const View& y, double dims);

}  // namespace sg
