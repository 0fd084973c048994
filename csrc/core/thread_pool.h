// The process-wide helper threads. Every thread gets the same share of the tasks in every job of that many, so that
// what it wrote is in its own cache when the next operation reads it; who is done takes over what others have left, so
// a late or preempted helper never holds a job up. Helpers spin about 35 microseconds for the next job, then sleep. If
// another caller holds the pool (simulated ranks), the job runs on the calling thread alone: waiting for helpers would
// cost more.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace sg {

class ThreadPool {
 public:
  static ThreadPool& instance();  // never destroyed: threads may outlive static destructors
  int threads() const;            // the caller included; SHARDGRAD_NUM_THREADS, by default the usable cores
  void set_threads(int n);

  // Runs f(task) for every task in [0, n). Not to be nested. An exception of a task is rethrown here, after all have
  // ended.
  template <class F>
  void run(int n, const F& f) {
    run_erased(n, [](const void* arg, int task) { (*static_cast<const F*>(arg))(task); }, &f);
  }

 private:
  struct Impl;
  Impl* impl_;
  ThreadPool();
  void run_erased(int n, void (*f)(const void*, int), const void* arg);
};

// Splits [0, n) into ranges of at least `grain` elements and runs f(begin, end) on them. The split depends on n and
// grain only, never on the number of threads, so that reductions over the parts give the same bits everywhere.
// Under about 20 microseconds of work a parallel region costs more than it gives: choose the grain accordingly.
template <class F>
inline void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  const int64_t parts = std::min<int64_t>(64, std::max<int64_t>(1, n / std::max<int64_t>(1, grain)));
  if (parts == 1) return f(int64_t(0), n);
  const int64_t step = (n + parts - 1) / parts;
  ThreadPool::instance().run(int((n + step - 1) / step), [&](int t) { f(t * step, std::min(n, (t + 1) * step)); });
}

// Working memory of the calling thread: 64-byte aligned, grown on demand, kept for the thread's life, contents
// undefined. A slot has one user at a time; a task may use kLocal* while its caller holds kShared*, and an operation
// made of others (convolution around matmul) holds kOuter* while they run.
enum class Scratch {
  kOuterA,
  kOuterB,
  kOuterC,
  kSharedA,
  kSharedB,
  kSharedC,
  kLocalA,
  kLocalB,
  kLocalC,
  kLocalD,
  kCount
};
void* scratch_bytes(Scratch slot, size_t bytes);
template <class T>
inline T* scratch(Scratch slot, size_t n) {
  return static_cast<T*>(scratch_bytes(slot, n * sizeof(T)));
}

}  // namespace sg
