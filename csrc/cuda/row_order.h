// The order of rows, as operations on tensors need it: sort, topk, and drawing without replacement.
#pragma once
#include "../core/view.h"
#include "cuda_queue.h"

namespace sg::gpu {

// The first k of each row of x along the last dimension, in stable order with NaN above all: their positions, and their
// values where those are wanted. k is the size of `indices` there.
void order_rows(const char* op, In x, MaybeOut values, Out indices, bool descending);

}  // namespace sg::gpu
