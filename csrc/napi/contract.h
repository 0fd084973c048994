// What an operation expects of its tensors and numbers, written as text beside its row of the op table and checked for
// every call: kernels of every backend index memory by these relations, so no mistake above may get past them.
//
//   "F[..,M,K] F[..,K,N] f[N]; n"    one pattern a tensor, then one letter a number; the last one is for the whole rest
//
// Dtypes: F one float kind for all F's of the call, A what F accumulates in, T one dtype for all T's, f any float kind,
// s float32, I int32 or int64, L int64, M a float kind or bool, * any. Sizes: a letter is one size for the whole call,
// .. any number of dimensions, the same in the whole call, _ any size, [*] any shape; ' after the last size: its
// elements lie side by side. Numbers: d a dimension of tensor 0, n a whole number, c a count, b 0 or 1, r anything.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../core/view.h"

namespace sg {

class Contract {
 public:
  // What the letters stand for in one call.
  struct Bindings {
    DType t = DType::kCount, f = DType::kCount;
    uint64_t sizes_bound = 0;
    int64_t sizes[64];
    int lead_count = -1;  // of ..
    int64_t lead[kMaxDims];
    int first_ndim = 0;
  };

  explicit Contract(const char* text);
  // `strides` is null for a fresh tensor, which is contiguous.
  void check_tensor(const char* op, int i, DType dtype, int ndim, const int64_t* shape, const int64_t* strides,
                    Bindings& b) const;
  void check_numbers(const char* op, const double* numbers, int64_t count, const Bindings& b) const;

 private:
  struct Pattern {
    char dtype = '*';
    bool any_shape = false, has_lead = false, dense = false;
    int lead_at = 0, sizes = 0;  // `lead_at` of the sizes stand before ..
    char size[kMaxDims] = {};
    std::string text;
  };
  static bool match_dtype(char pattern, DType dtype, Bindings& b);
  static bool match_shape(const Pattern& p, int ndim, const int64_t* shape, Bindings& b);

  std::vector<Pattern> tensors_;
  std::string numbers_;
};

}  // namespace sg
