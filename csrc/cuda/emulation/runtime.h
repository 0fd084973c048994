// What every file of the runtime's API begins with.
#pragma once
#include <cuda_runtime_api.h>

#include "capture.h"
#include "device_state.h"
#include "export.h"
#include "memory.h"
#include "options.h"
#include "stream.h"

#define SG_CUDART extern "C" SG_EMULATION_API
