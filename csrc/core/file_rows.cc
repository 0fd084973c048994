// Sums are taken of pieces that are still in the cache of the core that reads or writes them.
#include "file_rows.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "crc32.h"

namespace sg {

namespace {

constexpr size_t kPiece = size_t(256) << 10;

// Calls `step(done)`, which moves some bytes and says how many, until `bytes` are. False: it failed, or the file ended.
template <class Step>
bool repeat(FileResult& result, size_t bytes, const Step& step) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = step(done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) result.error = errno;
    if (n <= 0) return false;
    done += size_t(n);
    result.done += uint64_t(n);
  }
  return true;
}

}  // namespace

FileResult read_rows(int file, const FileRow* rows, size_t count, bool sums) {
  FileResult result;
  for (const FileRow* r = rows; r < rows + count; r++) {
    const size_t most = sums ? kPiece : r->bytes;
    for (size_t at = 0; at < r->bytes; at += most) {
      const size_t size = std::min(most, r->bytes - at);
      char* const piece = r->data + at;
      const auto step = [&](size_t done) {
        return pread(file, piece + done, size - done, off_t(r->position + at + done));
      };
      if (!repeat(result, size, step)) return result;
      if (sums) result.sum = crc32(piece, size, result.sum);
    }
  }
  return result;
}

FileResult write_rows(int file, const FileRow* rows, size_t count, uint32_t sum) {
  FileResult result;
  result.sum = sum;
  for (const FileRow* r = rows; r < rows + count; r++) {
    for (size_t at = 0; at < r->bytes; at += kPiece) {
      const size_t size = std::min(kPiece, r->bytes - at);
      const char* const piece = r->data + at;
      result.sum = crc32(piece, size, result.sum);
      if (!repeat(result, size, [&](size_t done) { return write(file, piece + done, size - done); })) return result;
    }
  }
  return result;
}

FileResult sum_range(int file, uint64_t position, uint64_t bytes) {
  FileResult result;
  const auto piece = std::make_unique_for_overwrite<char[]>(kPiece);
  while (result.done < bytes) {
    const size_t size = size_t(std::min<uint64_t>(kPiece, bytes - result.done));
    const uint64_t from = position + result.done;
    const auto step = [&](size_t done) { return pread(file, piece.get() + done, size - done, off_t(from + done)); };
    if (!repeat(result, size, step)) break;
    result.sum = crc32(piece.get(), size, result.sum);
  }
  return result;
}

}  // namespace sg
