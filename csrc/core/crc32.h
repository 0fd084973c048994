// CRC-32 as zlib, PNG and zip have it. What a checkpoint's COMMIT lists is this sum of every file.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg {

// The sum of some bytes followed by these; `sum` is that of the bytes before, 0 when there are none.
uint32_t crc32(const void* data, size_t bytes, uint32_t sum = 0);

// The sum of two ranges one after another, of which the second has `bytes`: sums of parts may come from several
// threads.
uint32_t join_crc32(uint32_t first, uint32_t second, uint64_t bytes);

}  // namespace sg
