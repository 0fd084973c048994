#include "nvtx.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

#include "../core/ranges.h"

namespace sg {

namespace {

constexpr RangeSink kNvtx = {[](const char* name) { nvtxRangePushA(name); }, [] { nvtxRangePop(); },
                             [](const char* name) { nvtxMarkA(name); }};

}  // namespace

// NVTX does not say whether anybody listens, but what a range gives where nobody does.
void look_for_profiler() {
  if (nvtxRangePushA("shardgrad") == NVTX_NO_PUSH_POP_TRACKING) return;
  nvtxRangePop();
  range_sink.store(&kNvtx, std::memory_order_release);
}

}  // namespace sg
#else
namespace sg {
void look_for_profiler() {}
}  // namespace sg
#endif
