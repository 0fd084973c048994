// The direct form for depthwise filters, whose products are too thin for a matrix multiply.
#pragma once
#include "../ops/conv.h"

namespace sg {

void depthwise_forward(const Conv& conv, In x, In weight, MaybeIn bias, Out y);
void depthwise_backward_input(const Conv& conv, In dy, In weight, Out dx);
void depthwise_backward_weight(const Conv& conv, In dy, In x, Out dw);

}  // namespace sg
