// The frame of the emulator's tests: every case runs under three schedules. `works` must compute right and be reported
// nothing about; a `fault` must be reported. Without the emulator, built by nvcc, the cases that work run on a GPU.
#pragma once
#include <cuda_runtime_api.h>
#include <functional>
#include <vector>

enum class Caught { Always, ByCheckBuild };

class Suite {
 public:
  void works(const char* name, const std::function<bool()>& run);
  void fault(const char* name, Caught caught, const std::function<void()>& run);
  int finish() const;  // prints the counts; the exit code

 private:
  void judge(const char* kind, const char* name, const std::function<bool()>& run);
  int passed_ = 0, failed_ = 0, left_out_ = 0;
};

// Device memory of a test.
template <class T>
struct Buffer {
  T* data = nullptr;
  size_t size;
  explicit Buffer(size_t count) : size(count) { (void)cudaMalloc(reinterpret_cast<void**>(&data), count * sizeof(T)); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    (void)cudaMemcpy(data, values.data(), size * sizeof(T), cudaMemcpyHostToDevice);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { (void)cudaFree(data); }
  std::vector<T> read() const {  // waits for everything before
    std::vector<T> values(size);
    (void)cudaDeviceSynchronize();
    (void)cudaMemcpy(values.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
};

inline bool ok(cudaError_t error) { return error == cudaSuccess; }

void instruction_cases(Suite& suite);  // instructions.cu
void matrix_cases(Suite& suite);       // matrices.cu
void idiom_cases(Suite& suite);        // idioms.cu
void block_faults(Suite& suite);       // block_faults.cu
void memory_faults(Suite& suite);      // memory_faults.cu
void runtime_cases(Suite& suite);      // runtime.cu
void capture_cases(Suite& suite);      // captures.cu

// Writes what every wrapper of PTX gives for fixed inputs, as JSON; recordings.cu.
bool record(const char* path);
