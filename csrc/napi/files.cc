// Files read into storages and written from them, on libuv's threads: a slow disk holds up neither JavaScript nor a
// stream. So nothing here is in the order of a stream: the caller has waited until the stream is done with what it gave
// it (streamDone). A storage that is freed meanwhile keeps its memory until the job is done, and a file that is closed
// stays open for the job.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "../core/crc32.h"
#include "../core/file_rows.h"
#include "args.h"

namespace sg {

namespace {

constexpr int64_t kFarthest = int64_t(1) << 53;

// A descriptor of its own: another file may get the number of a closed one at once.
class File {
 public:
  explicit File(int descriptor) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)), error_(errno) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int descriptor() const { return descriptor_; }
  int error() const { return descriptor_ < 0 ? error_ : 0; }

 private:
  const int descriptor_, error_;
};

struct Job {
  explicit Job(const Arguments& a) : file(int(a.integer(0, 0, INT32_MAX, "the file"))) {}
  ~Job() {
    for (const auto& [allocator, block] : held) allocator->let_go(block);
  }
  void hold(const Storage& s) {
    CachingAllocator& allocator = s.device->allocator();
    held.emplace_back(&allocator, s.block);
    allocator.hold(s.block);
  }

  const File file;
  std::vector<FileRow> rows;
  uint64_t position = 0, bytes = 0;  // of a range that is summed
  uint32_t sum = 0;
  bool sums = false;
  FileResult (*work)(const Job&) = nullptr;
  FileResult result;
  std::vector<std::pair<CachingAllocator*, Block*>> held;
  napi_deferred deferred = nullptr;
  napi_async_work handle = nullptr;
};

void execute(napi_env, void* data) {
  Job& job = *static_cast<Job*>(data);
  job.result.error = job.file.error();
  if (!job.result.error) job.result = job.work(job);
}

// Where JavaScript is ending there may be nobody to tell.
void complete(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  napi_delete_async_work(env, job->handle);
  napi_value answer = nullptr;
  if (napi_create_object(env, &answer) != napi_ok) return;
  const auto tell = [&](const char* name, double value) {
    napi_value number = nullptr;
    if (napi_create_double(env, value, &number) == napi_ok) napi_set_named_property(env, answer, name, number);
  };
  tell("done", double(job->result.done));
  tell("error", double(job->result.error));
  tell("sum", double(job->result.sum));
  napi_resolve_deferred(env, job->deferred, answer);
}

napi_value start(Environment& e, const char* name, std::unique_ptr<Job> job, FileResult (*work)(const Job&)) {
  job->work = work;
  napi_value text = nullptr, promise = nullptr;
  napi_create_string_utf8(e.env, name, NAPI_AUTO_LENGTH, &text);
  if (napi_create_async_work(e.env, nullptr, text, execute, complete, job.get(), &job->handle) != napi_ok ||
      napi_create_promise(e.env, &job->deferred, &promise) != napi_ok ||
      napi_queue_async_work(e.env, job->handle) != napi_ok) {
    if (job->handle) napi_delete_async_work(e.env, job->handle);
    return nullptr;  // JavaScript is ending
  }
  job.release();
  return promise;
}

// The rows that JavaScript wrote: handle, byte offset, bytes and, to read, the position in the file.
std::unique_ptr<Job> job_of_rows(Environment& e, const Arguments& a) {
  constexpr int64_t kFirst = 8, kRow = 4;
  const int64_t room = std::max<int64_t>(0, int64_t(e.block_length) - kFirst) / kRow;
  const int64_t n = a.integer(1, 0, room, "the number of rows");
  auto job = std::make_unique<Job>(a);
  for (int64_t i = 0; i < n; i++) {
    const double* row = e.block + kFirst + kRow * i;
    const Storage& s = e.storage(a.function(), row[0]);
    if (!s.device->backend().in_host_memory())
      fail(ErrorCode::Device, a.function(), ": ", s.device->name(), " does not work in the host's memory");
    const size_t bytes = size_t(whole_between(row[2], 0, kFarthest, a.function(), "the number of bytes"));
    const int64_t position = whole_between(row[3], 0, kFarthest, a.function(), "the position");
    job->rows.push_back({place_in(a.function(), s, row[1], bytes), uint64_t(position), bytes});
    job->hold(s);
  }
  return job;
}

uint32_t sum_argument(const Arguments& a, size_t i) { return uint32_t(a.integer(i, 0, UINT32_MAX, "the sum")); }

}  // namespace

namespace js {

// readRows(file, rows, whether to sum them): { done, error, sum } when the storages are filled; fewer bytes done
// without an error: the file ends
napi_value readRows(Environment& e, const Arguments& a) {
  auto job = job_of_rows(e, a);
  job->sums = a.boolean(2, "whether to sum");
  return start(e, a.function(), std::move(job),
               [](const Job& j) { return read_rows(j.file.descriptor(), j.rows.data(), j.rows.size(), j.sums); });
}

// writeRows(file, rows, sum): { done, error, sum }, the CRC-32 of all that the file has
napi_value writeRows(Environment& e, const Arguments& a) {
  auto job = job_of_rows(e, a);
  job->sum = sum_argument(a, 2);
  return start(e, a.function(), std::move(job),
               [](const Job& j) { return write_rows(j.file.descriptor(), j.rows.data(), j.rows.size(), j.sum); });
}

// sumRange(file, position, bytes): { done, error, sum } of a part of a file
napi_value sumRange(Environment& e, const Arguments& a) {
  auto job = std::make_unique<Job>(a);
  job->position = uint64_t(a.integer(1, 0, kFarthest, "the position"));
  job->bytes = uint64_t(a.integer(2, 0, kFarthest, "the number of bytes"));
  return start(e, a.function(), std::move(job),
               [](const Job& j) { return sum_range(j.file.descriptor(), j.position, j.bytes); });
}

// crc32(data, sum): of the data, after what gave `sum`
napi_value crc32(Environment& e, const Arguments& a) {
  const Bytes data = a.bytes(0, "the data");
  return make_number(e, double(sg::crc32(data.data, data.size, sum_argument(a, 1))));
}

// joinSums(first, second, bytes of the second)
napi_value joinSums(Environment& e, const Arguments& a) {
  const uint64_t bytes = uint64_t(a.integer(2, 0, kFarthest, "the number of bytes"));
  return make_number(e, double(join_crc32(sum_argument(a, 0), sum_argument(a, 1), bytes)));
}

}  // namespace js

std::vector<FunctionRow> file_functions() {
  return {SG_FUNCTION(readRows), SG_FUNCTION(writeRows), SG_FUNCTION(sumRange), SG_FUNCTION(crc32),
          SG_FUNCTION(joinSums)};
}

}  // namespace sg
