// Our matmul beside oneDNN's on the shapes of GPT training, sample by sample in turn, so that a disturbance hits both.
//
//   build/bench_gemm [threads = 1] [samples = 9] [neighbour]
//
// One thread is timed by its own CPU time, which a busy machine barely disturbs; several by the clock. `neighbour` runs
// a busy loop on one core meanwhile: what a library loses that waits by spinning.
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../csrc/core/thread_pool.h"
#include "../csrc/cpu/cpu_device.h"
#include "../csrc/cpu/simd/isa.h"

#ifdef SHARDGRAD_BENCH_DNNL
#include <dnnl.hpp>
extern "C" void omp_set_num_threads(int);
#endif

using namespace sg;

namespace {

struct Shape {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  std::string name() const {
    return std::string(transpose_a   ? "tn"
                       : transpose_b ? "nt"
                                     : "nn") +
           " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
  }
};
// nt is the forward x W^T, nn the input gradient, tn the weight gradient dY^T X
constexpr bool N = false, T = true;
const Shape kShapes[] = {{N, N, 256, 256, 256},    {N, N, 512, 512, 512},   {N, N, 1024, 1024, 1024},
                         {N, N, 2048, 2048, 2048}, {N, T, 2048, 384, 128},  {N, T, 2048, 512, 128},
                         {N, T, 2048, 128, 512},   {T, N, 384, 128, 2048},  {N, N, 2048, 128, 512},
                         {N, T, 3072, 1152, 384},  {N, T, 3072, 1536, 384}, {N, T, 3072, 384, 1536},
                         {T, N, 1536, 384, 3072},  {N, N, 3072, 384, 1536}, {N, T, 1024, 2304, 768},
                         {N, T, 1024, 768, 3072},  {T, N, 3072, 768, 1024}, {N, T, 1024, 12576, 768}};

struct Matrix {
  std::vector<char> bytes;
  View view;
  Matrix(DType dtype, int64_t rows, int64_t columns, bool transposed) : bytes(rows * columns * dtype_size(dtype) + 64) {
    view.dtype = dtype;
    view.ndim = 2;
    view.shape[0] = rows, view.shape[1] = columns;
    view.strides[0] = transposed ? 1 : columns, view.strides[1] = transposed ? rows : 1;
    view.data = reinterpret_cast<void*>((uintptr_t(bytes.data()) + 63) & ~uintptr_t(63));
    dispatch_float("bench", dtype, [&](auto tag) {
      using E = typename decltype(tag)::type;
      for (int64_t i = 0; i < rows * columns; i++) view.ptr<E>()[i] = E(float(i * 2654435761u >> 20 & 4095) / 2048 - 1);
    });
  }
};

double seconds(bool cpu_time) {
  timespec t;
  clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

using Product = std::function<void()>;

Product ours(const Matrix& a, const Matrix& b, Matrix& c) {
  static CpuDevice device;
  return [&] { device.matmul(a.view, b.view, {nullptr}, {nullptr}, c.view, {nullptr}, {nullptr}, 0); };
}

#ifdef SHARDGRAD_BENCH_DNNL
Product theirs(const Matrix& a, const Matrix& b, Matrix& c) {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto memory = [&](const View& v) {
    using dnnl::memory;
    const auto type = v.dtype == DType::k_float32 ? memory::data_type::f32 : memory::data_type::bf16;
    return memory({{v.shape[0], v.shape[1]}, type, {v.strides[0], v.strides[1]}}, engine, v.data);
  };
  const dnnl::memory x = memory(a.view), y = memory(b.view), z = memory(c.view);
  const dnnl::matmul product({{x.get_desc(), y.get_desc(), z.get_desc()}, engine});
  return [=] {
    product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, y}, {DNNL_ARG_DST, z}});
    stream.wait();
  };
}
#endif

struct Sampler {
  Product product;
  int repeats = 1;
  std::vector<double> times;

  Sampler(Product p, bool cpu_time) : product(std::move(p)) {
    product();
    const double start = seconds(cpu_time);
    product();
    repeats = int(std::clamp(0.015 / std::max(seconds(cpu_time) - start, 1e-7), 1., 1e4));
  }
  void sample(bool cpu_time) {
    // Sleeping threads wake on their waker's core, and the kernel takes milliseconds to spread them.
    for (int i = 0; !cpu_time && i < repeats; i++) product();
    const double start = seconds(cpu_time);
    for (int i = 0; i < repeats; i++) product();
    times.push_back((seconds(cpu_time) - start) / repeats);
  }
  double median() {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  double best() const { return *std::min_element(times.begin(), times.end()); }
};

struct Mean {
  double log_median = 0, log_best = 0;
  int count = 0;
};

void measure(const Shape& s, DType in, DType out, bool cpu_time, int samples, Mean& mean) {
  const Matrix a(in, s.m, s.k, s.transpose_a), b(in, s.k, s.n, s.transpose_b);
  Matrix c(out, s.m, s.n, false);
  const double giga = 2e-9 * double(s.m) * double(s.n) * double(s.k);
  Sampler own(ours(a, b, c), cpu_time);
#ifdef SHARDGRAD_BENCH_DNNL
  Matrix d(out, s.m, s.n, false);
  Sampler other(theirs(a, b, d), cpu_time);
#endif
  for (int i = 0; i < samples; i++) {
    own.sample(cpu_time);
#ifdef SHARDGRAD_BENCH_DNNL
    other.sample(cpu_time);
    // OpenMP's threads go on spinning after a product; without a pause they would hold the cores while ours is timed.
    if (!cpu_time) usleep(50'000);
#endif
  }
  std::printf("%-9s -> %-9s %-20s %7.1f", dtype_name(in), dtype_name(out), s.name().c_str(), giga / own.median());
#ifdef SHARDGRAD_BENCH_DNNL
  const double ratio = other.median() / own.median(), best = other.best() / own.best();
  std::printf(" %7.1f  %.3f  %.3f", giga / other.median(), ratio, best);
  mean.log_median += std::log(ratio), mean.log_best += std::log(best), mean.count++;
#endif
  std::printf("\n");
  std::fflush(stdout);
}

// A process that never sleeps, bound to the first core. Ends with its parent or at the latest when it is killed.
pid_t busy_neighbour() {
  const pid_t child = fork();
  if (child) return child;
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  sched_setaffinity(0, sizeof first, &first);
  const pid_t parent = getppid();
  for (volatile uint64_t turns = 0;;) {
    turns = turns + 1;
    if (turns % (1 << 24) == 0 && getppid() != parent) _exit(0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1, samples = argc > 2 ? std::atoi(argv[2]) : 9;
  const bool neighbour = argc > 3 && !std::strcmp(argv[3], "neighbour");
  if (threads < 1 || samples < 1) return std::fprintf(stderr, "bench_gemm [threads] [samples] [neighbour]\n"), 2;
  const bool cpu_time = threads == 1;
  const pid_t child = neighbour ? busy_neighbour() : 0;
  ThreadPool::instance().set_threads(threads);
#ifdef SHARDGRAD_BENCH_DNNL
  omp_set_num_threads(threads);
#endif
  std::printf("%d thread%s, %s, %s%s; GF/s, medians of %d\n", threads, threads > 1 ? "s" : "", isa_name(isa()),
              cpu_time ? "CPU time" : "wall time", neighbour ? ", with a busy neighbour" : "", samples);
  std::printf("%-22s %-20s %7s %7s  %s\n", "dtype", "shape", "own", "oneDNN", "own / oneDNN by medians, by best");
  const DType types[][2] = {{DType::k_float32, DType::k_float32},
                            {DType::k_bfloat16, DType::k_float32},
                            {DType::k_bfloat16, DType::k_bfloat16}};
  for (const auto& t : types) {
    Mean mean;
    for (const Shape& s : kShapes) measure(s, t[0], t[1], cpu_time, samples, mean);
    if (mean.count)
      std::printf("%-9s -> %-9s geometric mean %27s  %.3f  %.3f\n", dtype_name(t[0]), dtype_name(t[1]), "",
                  std::exp(mean.log_median / mean.count), std::exp(mean.log_best / mean.count));
  }
  if (child) kill(child, SIGKILL), waitpid(child, nullptr, 0);
}
