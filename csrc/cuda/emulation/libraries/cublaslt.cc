// A stand-in for libcublasLt.so.13 on the emulated runtime: the calls that cublaslt.h declares, with cuBLASLt's meaning
// of layouts, transposition, batches, epilogues and alignments, since that is where mistakes are made. What the model
// does not know is refused. Products are plain loops in float32 or float64.
#include "../../cublaslt.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../../core/half.h"
#include "../library.h"

using namespace sg;
using namespace sg::cublaslt;

#define SG_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr Status kSuccess = 0, kInvalidValue = 7;

struct Matrix {
  cudaDataType type;
  int64_t rows, columns, leading;
  int32_t batch = 1;
  int64_t stride = 0;
  int64_t at(int64_t row, int64_t column) const { return column * leading + row; }
  int64_t span() const { return at(rows - 1, columns - 1) + 1; }
};

struct Product {
  ComputeType compute;
  cudaDataType scale;
  int32_t transposed_a = 0, transposed_b = 0;
  uint32_t epilogue = kPlain;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // D's
  char* aux = nullptr;
  int64_t aux_leading = 0, aux_stride = 0;
};

Status refuse(const char* why) {
  std::fprintf(stderr, "emulated cuBLASLt: %s\n", why);
  return kInvalidValue;
}

template <class T>
Status take(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return refuse("an attribute has the wrong size");
  std::memcpy(&to, value, bytes);
  return kSuccess;
}

size_t size_of(cudaDataType t) { return t == CUDA_R_64F ? 8 : t == CUDA_R_32F ? 4 : 2; }

double load(const void* p, int64_t i, cudaDataType t) {
  switch (t) {
    case CUDA_R_64F: return static_cast<const double*>(p)[i];
    case CUDA_R_32F: return static_cast<const float*>(p)[i];
    case CUDA_R_16F: return float(static_cast<const float16*>(p)[i]);
    default: return float(static_cast<const bfloat16*>(p)[i]);
  }
}
void store(void* p, int64_t i, cudaDataType t, double v) {
  switch (t) {
    case CUDA_R_64F: static_cast<double*>(p)[i] = v; break;
    case CUDA_R_32F: static_cast<float*>(p)[i] = float(v); break;
    case CUDA_R_16F: static_cast<float16*>(p)[i] = float16(float(v)); break;
    default: static_cast<bfloat16*>(p)[i] = bfloat16(float(v)); break;
  }
}

double gelu(double x) { return x / (1 + std::exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x))); }
double gelu_derivative(double x) {
  const double s = 1 / (1 + std::exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x)));
  return s + x * s * (1 - s) * 2 * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

// Which products there are: a type for all inputs, and it or float32 for the result.
bool known_types(const Product& p, const Matrix& a, const Matrix& b, const Matrix& d) {
  const bool wide = d.type == CUDA_R_64F;
  if (a.type != b.type || (d.type != a.type && d.type != CUDA_R_32F)) return false;
  if (a.type == CUDA_R_64F && !wide) return false;
  if (wide) return p.compute == kCompute64F && p.scale == CUDA_R_64F && p.epilogue == kPlain;
  if (p.compute == kCompute32FFastTF32 && a.type != CUDA_R_32F) return false;
  return (p.compute == kCompute32F || p.compute == kCompute32FFastTF32) && p.scale == CUDA_R_32F;
}

Status look_at(const Product& p, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& d) {
  const int64_t m = p.transposed_a ? a.columns : a.rows, k = p.transposed_a ? a.rows : a.columns;
  const int64_t k_of_b = p.transposed_b ? b.columns : b.rows, n = p.transposed_b ? b.rows : b.columns;
  if (m < 1 || n < 1 || k < 1) return refuse("an empty product");
  if (k != k_of_b || d.rows != m || d.columns != n || c.rows != m || c.columns != n) return refuse("shapes disagree");
  for (const Matrix* x : {&a, &b, &c, &d}) {
    if (x->batch != d.batch) return refuse("batch counts disagree");
    if (x->leading < x->rows) return refuse("a leading dimension is smaller than a column");
  }
  if (c.type != d.type) return refuse("C and D have different types");
  constexpr uint32_t known = kPlain | kWithBias | kGelu | kDGelu | kWithAux;
  if (p.epilogue & ~known) return refuse("an epilogue that is not modelled");
  if (!known_types(p, a, b, d)) return kNotSupported;
  if ((p.epilogue & kDGelu) == kDGelu && (p.epilogue & kWithBias)) return kNotSupported;
  if (p.epilogue & kWithAux) {
    if (!p.aux) return refuse("an epilogue without its auxiliary matrix");
    if (p.aux_leading < m || p.aux_leading % 8 || p.aux_stride % 8) return refuse("the auxiliary matrix' layout");
    if (d.type == CUDA_R_32F && a.type != CUDA_R_32F) return kNotSupported;
  }
  return kSuccess;
}

struct Job {
  Product p;
  Matrix a, b, c, d;
  double alpha, beta;
  const char *x, *y, *z;
  char* result;

  bool touch(const void* p, int64_t elements, cudaDataType t, bool writes) const {
    return sgEmulationAccess(p, size_t(elements) * size_of(t), writes, "cublasLtMatmul") != 0;
  }
  void run() const {
    for (int32_t i = 0; i < d.batch; i++) {
      if (!element(i)) return;
    }
  }

 private:
  bool element(int32_t i) const;
  double finish(double v, int64_t row, int64_t column, int32_t i) const;
  template <class T>
  void multiply(const void* left, const void* right, std::vector<T>& sums) const;
};

template <class T>
__attribute__((target_clones("avx2", "default"))) void add_scaled(T* to, const T* from, T factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

// sums[column * m + row]
template <class T>
void Job::multiply(const void* left, const void* right, std::vector<T>& sums) const {
  const int64_t m = d.rows, n = d.columns, k = p.transposed_a ? a.rows : a.columns;
  std::vector<T> columns(size_t(k * m));
  for (int64_t l = 0; l < k; l++) {
    for (int64_t row = 0; row < m; row++)
      columns[size_t(l * m + row)] = T(load(left, p.transposed_a ? a.at(l, row) : a.at(row, l), a.type));
  }
  sums.assign(size_t(m * n), T(0));
  for (int64_t column = 0; column < n; column++) {
    for (int64_t l = 0; l < k; l++) {
      const T factor = T(load(right, p.transposed_b ? b.at(column, l) : b.at(l, column), b.type));
      add_scaled(&sums[size_t(column * m)], &columns[size_t(l * m)], factor, m);
    }
  }
}

double Job::finish(double v, int64_t row, int64_t column, int32_t i) const {
  const cudaDataType bias_type = p.bias_type < 0 ? d.type : cudaDataType(p.bias_type);
  if (p.epilogue & kWithBias) v += load(p.bias, row, bias_type);
  if (!(p.epilogue & kWithAux)) return p.epilogue & kGelu ? gelu(v) : v;
  const int64_t at = i * p.aux_stride + column * p.aux_leading + row;
  if ((p.epilogue & kDGelu) == kDGelu) return v * gelu_derivative(load(p.aux, at, d.type));
  store(p.aux, at, d.type, v);
  return gelu(v);
}

bool Job::element(int32_t i) const {
  const char* const left = x + i * a.stride * int64_t(size_of(a.type));
  const char* const right = y + i * b.stride * int64_t(size_of(b.type));
  const char* const addend = z + i * c.stride * int64_t(size_of(c.type));
  char* const to = result + i * d.stride * int64_t(size_of(d.type));
  // column by column: what lies between two columns is somebody else's
  const auto touch_columns = [&](const void* p, const Matrix& m, int64_t leading, bool writes) {
    for (int64_t column = 0; column < m.columns; column++) {
      if (!touch(static_cast<const char*>(p) + column * leading * int64_t(size_of(m.type)), m.rows, m.type, writes))
        return false;
    }
    return true;
  };
  if (!touch_columns(left, a, a.leading, false) || !touch_columns(right, b, b.leading, false)) return false;
  if (beta != 0 && !touch_columns(addend, c, c.leading, false)) return false;
  if ((p.epilogue & kWithBias) && !touch(p.bias, d.rows, p.bias_type < 0 ? d.type : cudaDataType(p.bias_type), false))
    return false;
  const bool reads_aux = (p.epilogue & kDGelu) == kDGelu;
  if ((p.epilogue & kWithAux) &&
      !touch_columns(p.aux + i * p.aux_stride * int64_t(size_of(d.type)), d, p.aux_leading, !reads_aux)) {
    return false;
  }
  const auto write = [&](const auto& sums) {
    for (int64_t column = 0; column < d.columns; column++) {
      for (int64_t row = 0; row < d.rows; row++) {
        double v = alpha * double(sums[size_t(column * d.rows + row)]);
        if (beta != 0) v += beta * load(addend, c.at(row, column), c.type);
        store(to, d.at(row, column), d.type, finish(v, row, column, i));
      }
    }
  };
  if (!touch_columns(to, d, d.leading, true)) return false;
  if (d.type == CUDA_R_64F) {
    std::vector<double> sums;
    multiply(left, right, sums);
    write(sums);
  } else {
    std::vector<float> sums;
    multiply(left, right, sums);
    write(sums);
  }
  return true;
}

Matrix& matrix(Layout l) { return *reinterpret_cast<Matrix*>(l); }
Product& product(Description d) { return *reinterpret_cast<Product*>(d); }

bool aligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

}  // namespace

SG_EXPORT size_t cublasLtGetVersion() { return 130101; }
SG_EXPORT Status cublasLtCreate(Handle* h) {
  *h = reinterpret_cast<Handle>(new int);
  return kSuccess;
}
SG_EXPORT Status cublasLtDestroy(Handle h) {
  delete reinterpret_cast<int*>(h);
  return kSuccess;
}

SG_EXPORT Status cublasLtMatrixLayoutCreate(Layout* l, cudaDataType t, uint64_t rows, uint64_t columns,
                                            int64_t leading) {
  if (t != CUDA_R_32F && t != CUDA_R_64F && t != CUDA_R_16F && t != CUDA_R_16BF) return kNotSupported;
  *l = reinterpret_cast<Layout>(new Matrix{t, int64_t(rows), int64_t(columns), leading});
  return kSuccess;
}
SG_EXPORT Status cublasLtMatrixLayoutDestroy(Layout l) {
  delete &matrix(l);
  return kSuccess;
}
SG_EXPORT Status cublasLtMatrixLayoutSetAttribute(Layout l, LayoutAttribute which, const void* value, size_t bytes) {
  if (which == kBatchCount) return take(matrix(l).batch, value, bytes);
  if (which == kStridedBatchOffset) return take(matrix(l).stride, value, bytes);
  return refuse("an attribute of a layout that is not modelled");
}

SG_EXPORT Status cublasLtMatmulDescCreate(Description* d, ComputeType compute, cudaDataType scale) {
  *d = reinterpret_cast<Description>(new Product{compute, scale});
  return kSuccess;
}
SG_EXPORT Status cublasLtMatmulDescDestroy(Description d) {
  delete &product(d);
  return kSuccess;
}
SG_EXPORT Status cublasLtMatmulDescSetAttribute(Description d, DescriptionAttribute which, const void* value,
                                                size_t bytes) {
  Product& p = product(d);
  switch (which) {
    case kTransA: return take(p.transposed_a, value, bytes);
    case kTransB: return take(p.transposed_b, value, bytes);
    case kEpilogue: return take(p.epilogue, value, bytes);
    case kBiasPointer: return take(p.bias, value, bytes);
    case kBiasDataType: return take(p.bias_type, value, bytes);
    case kEpilogueAuxPointer: return take(p.aux, value, bytes);
    case kEpilogueAuxLd: return take(p.aux_leading, value, bytes);
    case kEpilogueAuxBatchStride: return take(p.aux_stride, value, bytes);
    default: return refuse("an attribute of a product that is not modelled");
  }
}

SG_EXPORT Status cublasLtMatmulPreferenceCreate(Preference* p) {
  *p = reinterpret_cast<Preference>(new int);
  return kSuccess;
}
SG_EXPORT Status cublasLtMatmulPreferenceDestroy(Preference p) {
  delete reinterpret_cast<int*>(p);
  return kSuccess;
}
SG_EXPORT Status cublasLtMatmulPreferenceSetAttribute(Preference, PreferenceAttribute which, const void*,
                                                      size_t bytes) {
  return bytes == (which == kMaxWorkspaceBytes ? 8 : 4) ? kSuccess : refuse("a preference has the wrong size");
}

SG_EXPORT Status cublasLtMatmulAlgoGetHeuristic(Handle, Description p, Layout a, Layout b, Layout c, Layout d,
                                                Preference, int wanted, HeuristicResult* result, int* found) {
  *found = 0;
  if (wanted < 1) return kInvalidValue;
  if (const Status status = look_at(product(p), matrix(a), matrix(b), matrix(c), matrix(d))) return status;
  *result = HeuristicResult{};
  result->workspace_bytes = 4096;
  *found = 1;
  return kSuccess;
}

SG_EXPORT Status cublasLtMatmul(Handle, Description p, const void* alpha, const void* x, Layout a, const void* y,
                                Layout b, const void* beta, const void* z, Layout c, void* result, Layout d,
                                const Algorithm*, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (const Status status = look_at(product(p), matrix(a), matrix(b), matrix(c), matrix(d))) return status;
  const bool wide = matrix(d).type == CUDA_R_64F;
  const auto factor = [&](const void* f) {
    return wide ? *static_cast<const double*>(f) : *static_cast<const float*>(f);
  };
  auto* const job = new Job{product(p),
                            matrix(a),
                            matrix(b),
                            matrix(c),
                            matrix(d),
                            factor(alpha),
                            factor(beta),
                            static_cast<const char*>(x),
                            static_cast<const char*>(y),
                            static_cast<const char*>(z),
                            static_cast<char*>(result)};
  const char* wrong = nullptr;
  if (workspace_bytes < 4096 || !workspace || !aligned(workspace, 256))
    wrong = "the workspace is too small or not aligned";
  if ((job->p.epilogue & kWithBias) && !job->p.bias) wrong = "a bias epilogue without a bias";
  if ((job->p.epilogue & kWithAux) && !aligned(job->p.aux, 16)) wrong = "the auxiliary matrix is not aligned";
  if (job->beta != 0 && z == result && std::memcmp(&job->c, &job->d, sizeof(Matrix)) != 0)
    wrong = "C is D with another layout";
  if (wrong) {
    delete job;
    return refuse(wrong);
  }
  const auto run = [](void* data) { static_cast<const Job*>(data)->run(); };
  const auto release = [](void* data) { delete static_cast<Job*>(data); };
  return sgEmulationEnqueue(stream, nullptr, run, release, job) == cudaSuccess ? kSuccess : 13;
}
