// Parsing happens once, when the table is made; checking is a few compares a dimension.
#include "contract.h"

#include <cctype>
#include <cmath>
#include <cstring>
#include <sstream>

#include "args.h"

namespace sg {

Contract::Contract(const char* text) {
  std::istringstream in(text);
  std::string word;
  while (in >> word) {
    const bool last = word.back() == ';';
    if (last) word.pop_back();
    if (word.empty()) break;  // no tensors
    Pattern p;
    p.dtype = word[0];
    p.text = word;
    SG_ASSERT(std::strchr("FATfsILM*", p.dtype) && word.size() >= 3 && word[1] == '[' && word.back() == ']');
    std::istringstream sizes(word.substr(2, word.size() - 3));
    for (std::string size; std::getline(sizes, size, ',');) {
      if (size == "*") {
        p.any_shape = true;
      } else if (size == "..") {
        p.has_lead = true;
        p.lead_at = p.sizes;
      } else {
        p.dense = size.size() == 2 && size[1] == '\'';
        SG_ASSERT(size.size() == (p.dense ? 2 : 1) && (std::isalpha(size[0]) || size[0] == '_'));
        p.size[p.sizes++] = size[0];
      }
    }
    tensors_.push_back(p);
    if (last) break;
  }
  while (in >> word) {
    SG_ASSERT(word.size() == 1 && std::strchr("dncbr", word[0]));
    numbers_ += word[0];
  }
}

bool Contract::match_dtype(char pattern, DType dtype, Bindings& b) {
  const auto bind = [dtype](DType& to) {
    if (to == DType::kCount) to = dtype;
    return to == dtype;
  };
  switch (pattern) {
    case 'F': return dtype <= DType::k_bfloat16 && bind(b.f);
    case 'A': return dtype == (b.f == DType::k_float64 ? DType::k_float64 : DType::k_float32);
    case 'T': return bind(b.t);
    case 'f': return dtype <= DType::k_bfloat16;
    case 's': return dtype == DType::k_float32;
    case 'I': return dtype == DType::k_int32 || dtype == DType::k_int64;
    case 'L': return dtype == DType::k_int64;
    case 'M': return dtype <= DType::k_bfloat16 || dtype == DType::k_bool_;
    default: return true;
  }
}

bool Contract::match_shape(const Pattern& p, int ndim, const int64_t* shape, Bindings& b) {
  if (p.any_shape) return true;
  const int lead = ndim - p.sizes;
  if (p.has_lead ? lead < 0 : lead != 0) return false;
  for (int i = 0; i < p.sizes; i++) {
    const int64_t size = shape[i < p.lead_at || !p.has_lead ? i : i + lead];
    if (p.size[i] == '_') continue;
    const int letter = p.size[i] - 'A';
    if (b.sizes_bound >> letter & 1) {
      if (b.sizes[letter] != size) return false;
    } else {
      b.sizes_bound |= uint64_t(1) << letter;
      b.sizes[letter] = size;
    }
  }
  if (!p.has_lead) return true;
  const int64_t* const first = shape + p.lead_at;
  if (b.lead_count < 0) {
    b.lead_count = lead;
    std::copy(first, first + lead, b.lead);
    return true;
  }
  return b.lead_count == lead && std::equal(first, first + lead, b.lead);
}

void Contract::check_tensor(const char* op, int i, DType dtype, int ndim, const int64_t* shape, const int64_t* strides,
                            Bindings& b) const {
  const Pattern& p = tensors_[std::min(size_t(i), tensors_.size() - 1)];
  if (i == 0) b.first_ndim = ndim;
  if (!match_dtype(p.dtype, dtype, b)) {
    fail(ErrorCode::DType, op, ": tensor ", i, " is ", dtype_name(dtype), ", which is not the ", p.text,
         " that goes with the others");
  }
  if (p.dense && strides && ndim > 0 && shape[ndim - 1] > 1 && strides[ndim - 1] != 1) {
    fail(ErrorCode::Shape, op, ": the last dimension of tensor ", i, " must be contiguous, its stride is ",
         strides[ndim - 1]);
  }
  if (match_shape(p, ndim, shape, b)) return;
  std::ostringstream text;
  for (int d = 0; d < ndim; d++) text << (d ? "," : "") << shape[d];
  fail(ErrorCode::Shape, op, ": tensor ", i, " has shape [", text.str(), "], which is not the ", p.text,
       " that goes with the others");
}

void Contract::check_numbers(const char* op, const double* numbers, int64_t count, const Bindings& b) const {
  for (int64_t i = 0; i < count; i++) {
    switch (numbers_[std::min(size_t(i), numbers_.size() - 1)]) {
      case 'd': whole_between(numbers[i], 0, std::max(0, b.first_ndim - 1), op, "the dimension"); break;
      case 'n': whole_between(numbers[i], -(int64_t(1) << 53), int64_t(1) << 53, op, "a number"); break;
      case 'c': whole_between(numbers[i], 0, INT32_MAX, op, "a count"); break;
      case 'b': whole_between(numbers[i], 0, 1, op, "a flag"); break;
      default: break;
    }
  }
}

}  // namespace sg
