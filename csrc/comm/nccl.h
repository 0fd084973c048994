// NCCL as process groups see it: a carrier on top of a group of the CPU, for tensors of GPUs. ../cuda has it, or says
// that this binary was built without.
#pragma once
#include <memory>
#include <string>

#include "group.h"

namespace sg {

inline constexpr int kNcclIdBytes = 128;

struct NcclLibrary {
  int version;          // 23007: 2.30.7; 0: not known
  std::string problem;  // why it cannot be used; empty: it can
};
NcclLibrary find_nccl();
std::string make_nccl_id();  // throws

// On the stream's thread, in a call of the group; every rank calls it. From then on NCCL carries the group.
void start_nccl(Stream& stream, Group& group, const char* id);
// Cuts the communicator of a group that NCCL carries, for the parts that were made of the group. Ranks without a part
// have the color -1; keys are the ranks in the part.
void split_nccl(Stream& stream, Group& group, const std::shared_ptr<Group>& part, int color, int key);

}  // namespace sg
