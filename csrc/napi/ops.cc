// run(): the one crossing of every operation. The block describes it (lib/native.ts has the same layout); here each
// number is checked, fresh outputs are allocated, and the views are packed into a command that holds only the
// dimensions in use. The stream's thread unpacks them and calls the kernel.
#include <cstring>

#include "../core/command_log.h"
#include "args.h"
#include "call.h"

namespace sg {

namespace {

// ---- the block
constexpr int kHeader = 8, kRecord = 20;
constexpr int kHandle = 0, kDType = 1, kDims = 2, kOffset = 3, kShape = 4, kStrides = 12;
// Places of the header that answer, while a profile is recorded.
constexpr int kNumber = 5, kLiveBytes = 6, kReservedBytes = 7;
constexpr double kFresh = -1, kScalar = -2, kAbsent = -3;
constexpr int64_t kMaxTensors = 1 << 20, kMaxNumbers = 1 << 20;

// ---- the command: this header, the numbers, then the tensors
struct PackedOp {
  Device* device;
  const OpRow* row;
  int32_t tensors, numbers;
};
struct PackedView {
  union {
    void* data;
    double scalar;
  };
  DType dtype;
  uint8_t ndim;
  enum Kind : uint8_t { kTensor, kScalarValue, kNothing } kind;
  int64_t* dims() { return reinterpret_cast<int64_t*>(this + 1); }  // shape, then strides
};
constexpr size_t kMaxPacked = sizeof(PackedView) + 2 * kMaxDims * sizeof(int64_t);

char* unpack(char* p, View& v, bool& absent) {
  PackedView& packed = *reinterpret_cast<PackedView*>(p);
  absent = packed.kind == PackedView::kNothing;
  v.dtype = packed.dtype;
  v.ndim = packed.ndim;
  if (packed.kind == PackedView::kTensor) {
    v.data = packed.data;
    const int64_t* dims = packed.dims();
    for (int i = 0; i < v.ndim; i++) {
      v.shape[i] = dims[i];
      v.strides[i] = dims[v.ndim + i];
    }
    return reinterpret_cast<char*>(packed.dims() + 2 * v.ndim);
  }
  v.data = nullptr;
  v.scalar = packed.scalar;
  return p + sizeof(PackedView);
}

void run_packed(Stream& stream, void* payload) {
  PackedOp& op = *static_cast<PackedOp*>(payload);
  double* numbers = reinterpret_cast<double*>(&op + 1);
  char* p = reinterpret_cast<char*>(numbers + op.numbers);
  View few[kMaxNamedTensors];
  thread_local std::vector<View> many;
  View* views = few;
  if (op.tensors > kMaxNamedTensors) {
    if (many.size() < size_t(op.tensors)) many.resize(size_t(op.tensors));
    views = many.data();
  }
  OpArguments arguments{views, op.tensors, 0, numbers, op.numbers};
  for (int i = 0; i < op.tensors; i++) {
    bool absent = false;
    p = unpack(p, views[i], absent);
    if (absent) arguments.absent |= 1u << i;  // only named tensors can be absent
  }
  op.row->invoke(stream, *op.device, *op.row, arguments);
}

// One call of run(), while it is checked and packed.
class Packing {
 public:
  Packing(Environment& e, double* block) : e_(e), m_(block) {}
  ~Packing() {  // not committed: what was allocated goes back
    for (int i = 0; i < fresh_count_; i++) e_.drop(e_.storage(row_->name, fresh_[i]));
  }
  void run();

 private:
  char* pack(int i, char* p);
  char* pack_tensor(int i, double* record, PackedView& v, const Storage& s);
  char* pack_fresh(int i, double* record, PackedView& v);
  void read_dims(double* record, PackedView& v, int64_t* shape, int64_t& numel);
  void check_contract(int i, PackedView& v, const int64_t* strides) {
    if (row_->contract) row_->contract->check_tensor(row_->name, i, v.dtype, v.ndim, v.dims(), strides, bindings_);
  }
  void check_shapes(char* tensors) const;
  TensorKind kind(int i) const { return row_->tensors[std::min(i, row_->tensor_count - 1)]; }
  int64_t whole_at(const char* what, double d, int64_t low, int64_t high) const {
    return whole_between(d, low, high, row_ ? row_->name : "run", what);
  }

  Environment& e_;
  double* const m_;
  const OpRow* row_ = nullptr;
  DeviceContext* device_ = nullptr;
  int stream_ = 0;
  bool other_stream_ = false;  // a tensor belongs to another stream than the one the op runs on
  double fresh_[kMaxNamedTensors];
  int fresh_count_ = 0;
  Contract::Bindings bindings_;
};

void Packing::read_dims(double* record, PackedView& v, int64_t* shape, int64_t& numel) {
  const int64_t ndim = whole_at("the number of dimensions", record[kDims], 0, kMaxDims);
  v.ndim = uint8_t(ndim);
  numel = 1;
  bool empty = false;
  for (int d = 0; d < ndim; d++) {
    if (!whole(record[kShape + d], shape[d]) || shape[d] < 0) {
      fail(ErrorCode::Shape, row_->name, ": a size must be a whole number from 0 on, got ", show(record[kShape + d]));
    }
    // An empty tensor may have any other sizes: the product must not overflow before the 0 comes.
    if (shape[d] == 0) empty = true;
    else if (__builtin_mul_overflow(numel, shape[d], &numel) || numel > (int64_t(1) << 53)) {
      fail(ErrorCode::OutOfMemory, row_->name, ": out of memory: a tensor of more than 2^53 elements");
    }
  }
  if (empty) numel = 0;
}

char* Packing::pack_fresh(int i, double* record, PackedView& v) {
  int64_t* shape = v.dims();
  int64_t numel = 0;
  read_dims(record, v, shape, numel);
  check_contract(i, v, nullptr);
  int64_t* strides = shape + v.ndim;
  int64_t step = 1;
  for (int d = v.ndim - 1; d >= 0; d--) {
    strides[d] = step;
    step *= std::max<int64_t>(1, shape[d]);
  }
  Block* b = e_.allocate(*device_, size_t(numel) * dtype_size(v.dtype), stream_);
  record[kHandle] = fresh_[fresh_count_++] = e_.storages.add(*device_, b);
  v.data = b->data;
  return reinterpret_cast<char*>(strides + v.ndim);
}

char* Packing::pack_tensor(int i, double* record, PackedView& v, const Storage& s) {
  if (s.device != device_) {
    fail(ErrorCode::Device, row_->name, ": tensor ", i, " is on ", s.device->name(), ", the operation runs on ",
         device_->name());
  }
  int64_t* shape = v.dims();
  int64_t numel = 0;
  read_dims(record, v, shape, numel);
  int64_t* strides = shape + v.ndim;
  int64_t low = 0, high = 0;
  if (!whole(record[kOffset], low)) fail(ErrorCode::Shape, row_->name, ": not an offset: ", show(record[kOffset]));
  high = low;
  bool overflow = false;
  for (int d = 0; d < v.ndim; d++) {
    if (!whole(record[kStrides + d], strides[d])) {
      fail(ErrorCode::Shape, row_->name, ": not a stride: ", show(record[kStrides + d]));
    }
    int64_t reach = 0;
    overflow |= __builtin_mul_overflow(shape[d] - 1, strides[d], &reach);
    int64_t& end = reach < 0 ? low : high;
    overflow |= __builtin_add_overflow(end, reach, &end);
  }
  check_contract(i, v, strides);
  const int64_t elements = int64_t(s.bytes() / dtype_size(v.dtype));
  if (numel == 0) {
    v.data = s.block->data;
  } else if (overflow || low < 0 || high >= elements) {
    fail(ErrorCode::Shape, row_->name, ": tensor ", i, " reaches outside its storage of ", elements, " elements");
  } else {
    v.data = s.block->data + size_t(record[kOffset]) * dtype_size(v.dtype);
  }
  other_stream_ |= s.block->stream != stream_;
  if (device_->allocator().capturing()) device_->allocator().retain(s.block);
  return reinterpret_cast<char*>(strides + v.ndim);
}

char* Packing::pack(int i, char* p) {
  double* record = m_ + kHeader + kRecord * i;
  PackedView& v = *new (p) PackedView;
  v.kind = PackedView::kTensor;
  const double handle = record[kHandle];
  const TensorKind kind = this->kind(i);
  if (handle == kAbsent) {
    if (kind != TensorKind::kMaybeIn && kind != TensorKind::kMaybeOut) {
      fail(ErrorCode::Value, row_->name, ": tensor ", i, " is missing");
    }
    v.kind = PackedView::kNothing;
    v.data = nullptr;
    v.ndim = 0;
    v.dtype = DType::k_float32;
    return p + sizeof(PackedView);
  }
  int64_t dtype = 0;
  if (!whole(record[kDType], dtype) || dtype < 0 || dtype >= kDTypes) {
    fail(ErrorCode::DType, row_->name, ": unknown dtype code ", show(record[kDType]));
  }
  v.dtype = DType(dtype);
  if (handle > 0) return pack_tensor(i, record, v, e_.storage(row_->name, handle));
  if (handle == kFresh && (kind == TensorKind::kOut || kind == TensorKind::kMaybeOut)) return pack_fresh(i, record, v);
  if (handle == kScalar && kind == TensorKind::kIn && row_->kind == OpKind::kPointwise) {
    v.kind = PackedView::kScalarValue;
    v.scalar = record[kOffset];
    v.ndim = 0;
    return p + sizeof(PackedView);
  }
  if (handle == kFresh || handle == kScalar) {
    fail(ErrorCode::Value, row_->name, ": tensor ", i, " cannot be a ", handle == kFresh ? "fresh output" : "number");
  }
  e_.storage(row_->name, handle);  // throws: not a handle
  return p;
}

// Pointwise operands have the output's shape; a reduced dimension has size 1 in the output.
void Packing::check_shapes(char* tensors) const {
  PackedView* views[4];
  const int count = row_->tensor_count;
  char* p = tensors;
  for (int i = 0; i < count; i++) {
    views[i] = reinterpret_cast<PackedView*>(p);
    p = reinterpret_cast<char*>(views[i]->dims() + 2 * views[i]->ndim);
  }
  PackedView& y = *views[count - 1];
  const double attribute = m_[kHeader + kRecord * count];
  const auto differ = [&] { fail(ErrorCode::Shape, row_->name, ": the tensors' shapes do not go together"); };
  if (row_->kind == OpKind::kPointwise) {
    whole_at("the compute dtype", attribute, 0, kDTypes - 1);
    for (int i = 0; i + 1 < count; i++) {
      if (views[i]->kind == PackedView::kScalarValue) continue;
      if (views[i]->ndim != y.ndim || std::memcmp(views[i]->dims(), y.dims(), y.ndim * sizeof(int64_t))) differ();
    }
    return;
  }
  PackedView& x = *views[0];
  if (x.ndim != y.ndim) differ();
  const int64_t dims = whole_at("the reduced dimensions", attribute, 0, (1 << x.ndim) - 1);
  for (int d = 0; d < x.ndim; d++) {
    if (y.dims()[d] != (dims >> d & 1 ? 1 : x.dims()[d])) differ();
  }
}

void Packing::run() {
  const auto& ops = op_table();
  row_ = &ops[size_t(whole_at("the op id", m_[0], 0, int64_t(ops.size()) - 1))];
  const int64_t slot = whole_at("the device slot", m_[1], 0, INT32_MAX);
  if (slot >= int64_t(e_.devices.size())) fail(ErrorCode::Device, row_->name, ": no device has slot ", slot);
  device_ = e_.devices[size_t(slot)].get();
  const int64_t n = whole_at("the number of tensors", m_[2], 0, kMaxTensors);
  const int64_t k = whole_at("the number of attributes", m_[3], 0, kMaxNumbers);
  stream_ = int(whole_at("the stream", m_[4], 0, kStreamsPerDevice - 1));
  const int named = row_->tensor_count - int(row_->any_tensors);
  if (row_->any_tensors ? n < named : n != named) {
    fail(ErrorCode::Value, row_->name, ": expects ", row_->any_tensors ? "at least " : "", named, " tensors, got ", n);
  }
  if (row_->any_numbers ? k < row_->number_count : k != row_->number_count) {
    fail(ErrorCode::Value, row_->name, ": expects ", row_->any_numbers ? "at least " : "", row_->number_count,
         " numbers, got ", k);
  }
  if (size_t(kHeader + kRecord * n + k) > e_.block_length) {
    fail(ErrorCode::Value, row_->name, ": ", n, " tensors and ", k, " numbers do not fit into the block");
  }
  Stream& stream = device_->stream(stream_);
  char* const payload = static_cast<char*>(stream.begin(sizeof(PackedOp) + size_t(k) * 8 + size_t(n) * kMaxPacked));
  new (payload) PackedOp{&device_->kernels(), row_, int32_t(n), int32_t(k)};
  char* p = payload + sizeof(PackedOp);
  if (k) std::memcpy(p, m_ + kHeader + kRecord * n, size_t(k) * 8);
  char* const tensors = p += size_t(k) * 8;
  for (int i = 0; i < n; i++) p = pack(i, p);
  if (row_->contract) row_->contract->check_numbers(row_->name, m_ + kHeader + kRecord * n, k, bindings_);
  else check_shapes(tensors);
  const uint64_t seq = stream.commit(run_packed, row_->spoken, size_t(p - payload));
  if (other_stream_) {
    for (int i = 0; i < n; i++) {
      const double handle = m_[kHeader + kRecord * i];
      if (handle > 0) CachingAllocator::record_use(e_.storage(row_->name, handle).block, stream_, seq);
    }
  }
  if (stream.runs_inline()) Environment::check(stream);
  fresh_count_ = 0;  // they are JavaScript's now
  if (!CommandLog::recording()) return;
  const MemoryStats memory = device_->allocator().stats();
  m_[kNumber] = double(seq);
  m_[kLiveBytes] = memory.liveBytes;
  m_[kReservedBytes] = memory.reservedBytes;
}

}  // namespace

namespace js {

void run(Environment& e) {
  if (!e.block) fail(ErrorCode::Value, "run: no block was attached");
  Packing(e, e.block).run();
}

// The address is kept, so the block must lie in a SharedArrayBuffer: no other kind stays where it is when somebody
// transfers it.
napi_value attach(Environment& e, const Arguments& a) {
  bool is_array = false;
  napi_is_typedarray(e.env, a.value(0), &is_array);
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer = nullptr;
  bool detachable = true;
  if (is_array) napi_get_typedarray_info(e.env, a.value(0), &type, &length, &data, &buffer, nullptr);
  if (buffer) napi_is_arraybuffer(e.env, buffer, &detachable);
  if (type != napi_float64_array || length < kHeader || detachable) {
    fail(ErrorCode::Value, "attach: the block must be a Float64Array of at least ", kHeader,
         " numbers over a SharedArrayBuffer");
  }
  napi_ref reference = nullptr;
  napi_create_reference(e.env, a.value(0), 1, &reference);
  if (e.block_reference) napi_delete_reference(e.env, e.block_reference);
  e.block_reference = reference;
  e.block = static_cast<double*>(data);
  e.block_length = length;
  return nullptr;
}

}  // namespace js

std::vector<FunctionRow> op_functions() { return {SG_FUNCTION(run), SG_FUNCTION(attach)}; }

}  // namespace sg
