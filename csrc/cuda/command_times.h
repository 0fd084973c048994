#pragma once

namespace sg {

// Lets a profile time commands on the GPU, by events of CUDA around them.
void offer_command_times();

}  // namespace sg
