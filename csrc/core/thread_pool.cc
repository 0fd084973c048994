// Each thread has a 64-bit word with its share of the job: generation (24 bits), end (20), next task (20). The owner
// claims from the front and others from the back, by compare-and-swap, so a late helper can never take a task of
// another job: the word it saw is stale. A claim keeps the job alive (the caller waits for every claimed task), so
// `fn`, `arg` and `count` are read after it.
#include "thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "error.h"
#include "platform.h"

namespace sg {

namespace {

constexpr int kMaxTasks = (1 << 20) - 1, kMaxThreads = 1024;
constexpr int64_t kSpinNs = 35'000;

int next_of(uint64_t word) { return int(word & 0xfffff); }
int end_of(uint64_t word) { return int(word >> 20 & 0xfffff); }
bool open(uint64_t word) { return next_of(word) < end_of(word); }

int threads_from_environment() {
  const auto n = number_from_environment("SHARDGRAD_NUM_THREADS");
  return n ? int(std::min<uint64_t>(*n, kMaxThreads)) : usable_cores();
}

}  // namespace

struct ThreadPool::Impl {
  struct alignas(64) Share {
    std::atomic<uint64_t> word{0};
  };
  Share shares[kMaxThreads];  // the caller's is the first, helper i's is number i
  alignas(64) std::atomic<int> done{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> caller_asleep{false};
  std::atomic<bool> busy{false};
  std::atomic<int> threads{1};
  std::atomic<int> sharing{1};  // threads that have a share in the job
  uint64_t generation = 0;
  void (*fn)(const void*, int) = nullptr;
  const void* arg = nullptr;
  int count = 0;

  std::mutex mutex;
  std::condition_variable work, finished;
  std::exception_ptr error;  // of the lowest failing task, so that the same mistake always gives the same text
  int error_task = 0;
  int helpers = 0;

  void execute(int task) {
    try {
      fn(arg, task);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error || task < error_task) {
        error = std::current_exception();
        error_task = task;
      }
    }
  }

  // Claims and runs one task of a share. False when it has none left.
  bool step(Share& share, bool own) {
    uint64_t w = share.word.load(std::memory_order_acquire), left;
    do {
      if (!open(w)) return false;
      left = own ? w + 1 : w - (uint64_t(1) << 20);
    } while (!share.word.compare_exchange_weak(w, left, std::memory_order_acq_rel, std::memory_order_acquire));
    execute(own ? next_of(w) : end_of(w) - 1);
    return true;
  }

  // The own share first, then what is left of the others'. What was run is told once: a counter that all cores write
  // to after every task costs as much as a short task.
  void work_from(int id) {
    int ran = 0;
    while (step(shares[id], true)) ran++;
    const int n = sharing.load(std::memory_order_relaxed);
    for (int i = 1; i < n; i++) {
      while (step(shares[(id + i) % n], false)) ran++;
    }
    if (!ran) return;
    const int all = count;
    if (done.fetch_add(ran) + ran == all && caller_asleep.load()) {
      { std::lock_guard lock(mutex); }
      finished.notify_one();
    }
  }

  void help(int id) {
    name_thread("shardgrad pool");
    const auto wanted = [&] { return open(shares[id].word.load()); };
    for (;;) {
      if (wanted()) work_from(id);
      if (spin_until(kSpinNs, wanted)) continue;
      std::unique_lock lock(mutex);
      sleepers.fetch_add(1);
      work.wait(lock, wanted);
      sleepers.fetch_sub(1);
    }
  }

  void run_together(int n, void (*f)(const void*, int), const void* a) {
    fn = f;
    arg = a;
    count = n;
    error = nullptr;
    done.store(0, std::memory_order_relaxed);
    const int64_t parts = std::min(n, threads.load(std::memory_order_relaxed));
    sharing.store(int(parts), std::memory_order_relaxed);
    generation++;
    for (int64_t i = parts - 1; i >= 0; i--) {
      const uint64_t begin = uint64_t(n * i / parts), end = uint64_t(n * (i + 1) / parts);
      shares[i].word.store(generation << 40 | end << 20 | begin);  // ordered before the look at `sleepers`
    }
    if (sleepers.load()) {
      { std::lock_guard lock(mutex); }
      work.notify_all();
    }
    work_from(0);
    const auto ended = [&] { return done.load() == n; };
    if (!spin_until(kSpinNs, ended)) {
      std::unique_lock lock(mutex);
      caller_asleep.store(true);
      finished.wait(lock, ended);
      caller_asleep.store(false);
    }
  }
};

ThreadPool::ThreadPool() : impl_(new Impl) { set_threads(threads_from_environment()); }

ThreadPool& ThreadPool::instance() {
  static ThreadPool* pool = new ThreadPool;
  return *pool;
}

int ThreadPool::threads() const { return impl_->threads.load(std::memory_order_relaxed); }

void ThreadPool::set_threads(int n) {
  if (n < 1 || n > kMaxThreads) {
    fail(ErrorCode::Shape, "setNumThreads: expects 1 to ", kMaxThreads, " threads, got ", n);
  }
  std::lock_guard lock(impl_->mutex);
  // Helpers beyond the number stay asleep; they are never ended, as a job may be running.
  for (; impl_->helpers < n - 1; impl_->helpers++) {
    std::thread([impl = impl_, id = impl_->helpers + 1] { impl->help(id); }).detach();
  }
  impl_->threads.store(n, std::memory_order_relaxed);
}

void ThreadPool::run_erased(int n, void (*f)(const void*, int), const void* arg) {
  Impl& p = *impl_;
  // A nested run and a second caller both find the pool busy.
  if (n <= 1 || threads() == 1 || p.busy.exchange(true, std::memory_order_acquire)) {
    for (int task = 0; task < n; task++) f(arg, task);
    return;
  }
  for (int begin = 0; begin < n; begin += kMaxTasks) {
    struct Part {
      void (*f)(const void*, int);
      const void* arg;
      int begin;
    } part{f, arg, begin};
    const auto shifted = [](const void* a, int task) {
      const Part& q = *static_cast<const Part*>(a);
      q.f(q.arg, q.begin + task);
    };
    p.run_together(std::min(kMaxTasks, n - begin), shifted, &part);
    if (p.error) break;
  }
  const std::exception_ptr error = std::exchange(p.error, nullptr);
  p.busy.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
}

namespace {

struct ScratchSlots {
  struct Slot {
    void* data = nullptr;
    size_t bytes = 0;
    void release() {
      if (!data) return;
      unpoison(data, bytes);
      unmap_pages(data, bytes);
      data = nullptr;
    }
    ~Slot() { release(); }
  } slots[int(Scratch::kCount)];
};

}  // namespace

void* scratch_bytes(Scratch slot, size_t bytes) {
  thread_local ScratchSlots mine;
  ScratchSlots::Slot& s = mine.slots[int(slot)];
  if (s.data && bytes + kRedZone <= s.bytes) {
    unpoison(s.data, bytes);
    poison(static_cast<char*>(s.data) + bytes, s.bytes - bytes);
    return s.data;
  }
  s.release();
  const size_t page = bytes >= size_t(2) << 20 ? size_t(2) << 20 : 4096;
  const size_t wanted = std::max(bytes, s.bytes + s.bytes / 2) + kRedZone;
  s.bytes = (std::max<size_t>(wanted, 1) + page - 1) / page * page;
  if (wanted <= SIZE_MAX - page) s.data = map_pages(s.bytes);
  if (!s.data) {
    s.bytes = 0;
    fail(ErrorCode::OutOfMemory, "out of memory: ", bytes, " bytes of working memory of a kernel");
  }
  poison(static_cast<char*>(s.data) + bytes, kRedZone ? s.bytes - bytes : 0);
  return s.data;
}

}  // namespace sg
