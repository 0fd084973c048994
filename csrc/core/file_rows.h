// Bytes between files and memory, without a stop in between. Reading and not mapping: a mapped file that somebody cuts
// short ends the process with SIGBUS, here it ends a read.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg {

// A piece of memory, and where in the file it comes from; writing goes on where the file's last write ended.
struct FileRow {
  char* data;
  uint64_t position;
  size_t bytes;
};

struct FileResult {
  uint64_t done = 0;  // bytes, of all rows together
  int error = 0;      // errno; 0 and less done than asked for: the file ends there
  uint32_t sum = 0;   // CRC-32 of what was written, summed, or read by somebody who wants it
};

FileResult read_rows(int file, const FileRow* rows, size_t count, bool sums);
// `sum` is that of what the file has already.
FileResult write_rows(int file, const FileRow* rows, size_t count, uint32_t sum);
FileResult sum_range(int file, uint64_t position, uint64_t bytes);

}  // namespace sg
