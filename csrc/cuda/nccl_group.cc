#include "nccl_group.h"

#include <algorithm>

#include "../comm/nccl.h"
#include "../comm/rank_reduce.h"
#include "cuda_error.h"
#include "cuda_queue.h"
#include "nccl_watch.h"

namespace sg {

namespace {

using nccl::api;
using nccl::Comm;
using nccl::Result;

cudaStream_t cuda_stream() { return CudaQueue::current().stream(); }

// How NCCL moves elements of a type: what it has no name for goes as bytes.
struct Moved {
  nccl::Type type;
  size_t factor = 1;
  size_t each;
  explicit Moved(DType dtype) : each(dtype_size(dtype)) {
    switch (dtype) {
      case DType::k_float32: type = nccl::kFloat32; return;
      case DType::k_float64: type = nccl::kFloat64; return;
      case DType::k_float16: type = nccl::kFloat16; return;
      case DType::k_bfloat16: type = nccl::kBfloat16; return;
      case DType::k_int64: type = nccl::kInt64; return;
      case DType::k_int32: type = nccl::kInt32; return;
      case DType::k_uint32: type = nccl::kUint32; return;
      case DType::k_int8: type = nccl::kInt8; return;
      default: type = nccl::kUint8; factor = each;
    }
  }
  size_t count(int64_t elements) const { return size_t(elements) * factor; }
};

nccl::Type reduced_type(const char* op, DType dtype) {
  if (dtype == DType::k_float8_e4m3 || dtype == DType::k_float8_e5m2) {
    const GpuInfo& gpu = CudaQueue::current().gpu();
    if (api().version >= nccl::kNewTypes && gpu.major >= 9)
      return dtype == DType::k_float8_e4m3 ? nccl::kFloat8E4m3 : nccl::kFloat8E5m2;
    fail(ErrorCode::DType, op, ": NCCL reduces ", dtype_name(dtype),
         " from version 2.24 and compute capability 9.0 on; here are ", nccl::version_text(api().version), " and ",
         gpu.major, ".", gpu.minor);
  }
  if (dtype == DType::k_int16 || dtype == DType::k_uint16)
    fail(ErrorCode::DType, op, ": NCCL has no reductions of ", dtype_name(dtype), "; convert to int32");
  return Moved(dtype).type;
}

// As on the CPU, sums and products of bool are "or" and "and".
nccl::Op operation(DType dtype, RankReduce reduce) {
  const bool logical = dtype == DType::k_bool_;
  switch (reduce) {
    case RankReduce::kAvg: return nccl::kAverage;
    case RankReduce::kMin: return nccl::kMin;
    case RankReduce::kMax: return nccl::kMax;
    case RankReduce::kProduct: return logical ? nccl::kMin : nccl::kProduct;
    default: return logical ? nccl::kMax : nccl::kSum;
  }
}

// Several calls that NCCL begins at once. Its first error counts; "in progress" is none.
template <class F>
Result grouped(const F& f) {
  Result first = api().group_start();
  if (first != nccl::kSuccess) return first;
  f([&](Result r) {
    if (first == nccl::kSuccess && r != nccl::kInProgress) first = r;
  });
  const Result end = api().group_end();
  return first == nccl::kSuccess ? end : first;
}

void copy(void* to, const void* from, size_t bytes) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream()), "cudaMemcpyAsync");
}

bool even(const Parts& parts) {
  return std::all_of(parts.count.begin(), parts.count.end(), [&](int64_t n) { return n == parts.count[0]; });
}

}  // namespace

NcclGroup::NcclGroup(Group& group, std::shared_ptr<Communicator> communicator)
    : group_(group), communicator_(std::move(communicator)) {}

NcclGroup::~NcclGroup() { NcclWatch::instance().retire(communicator_); }

// f(comm, type, operation)
template <class F>
void NcclGroup::reducing(Stream& stream, const char* what, DType dtype, Reduction r, const F& f) {
  const nccl::Type type = reduced_type(what, dtype);
  launch(stream, what, [&](Comm comm) -> Result {
    if (r.op != RankReduce::kPremulSum) return f(comm, type, operation(dtype, r.op));
    // The factor has the type of the tensor.
    Result result = nccl::kInternalError;
    dispatch_all(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      if constexpr (!std::is_integral_v<T>) {
        T factor = T(typename Accumulate<T>::type(r.factor));
        nccl::Op op{};
        result = api().red_op_create(&op, &factor, type, nccl::kHostScalar, comm);
        if (result != nccl::kSuccess) return;
        result = f(comm, type, op);
        (void)api().red_op_destroy(op, comm);
      }
    });
    return result;
  });
}

void NcclGroup::all_reduce(Stream& stream, View& x, Reduction r) {
  check_reduction("allReduce", x.dtype, r.op);
  reduced_type("allReduce", x.dtype);
  group_.agree(stream, Collective::kAllReduce, x.dtype, x.numel(), -1, {nullptr, 0}, r);
  reducing(stream, "allReduce", x.dtype, r, [&](Comm comm, nccl::Type type, nccl::Op op) {
    return api().all_reduce(x.data, x.data, size_t(x.numel()), type, op, comm, cuda_stream());
  });
}

void NcclGroup::reduce(Stream& stream, View& x, Reduction r, int root) {
  check_reduction("reduce", x.dtype, r.op);
  reduced_type("reduce", x.dtype);
  group_.agree(stream, Collective::kReduce, x.dtype, x.numel(), root, {nullptr, 0}, r);
  reducing(stream, "reduce", x.dtype, r, [&](Comm comm, nccl::Type type, nccl::Op op) {
    return api().reduce(x.data, x.data, size_t(x.numel()), type, op, root, comm, cuda_stream());
  });
}

void NcclGroup::broadcast(Stream& stream, View& x, int root) {
  group_.agree(stream, Collective::kBroadcast, x.dtype, x.numel(), root, {nullptr, 0}, {});
  const Moved moved(x.dtype);
  launch(stream, "broadcast", [&](Comm comm) {
    return api().broadcast(x.data, x.data, moved.count(x.numel()), moved.type, root, comm, cuda_stream());
  });
}

void NcclGroup::all_gather(Stream& stream, const View& x, View& y, Rest counts) {
  const Parts parts = parts_of("allGather", counts, group_.size());
  expect_elements("allGather", "the input", x, parts.count[size_t(group_.rank())]);
  expect_elements("allGather", "the output", y, parts.total);
  group_.agree(stream, Collective::kAllGather, x.dtype, parts.total, -1, counts, {});
  const Moved moved(x.dtype);
  launch(stream, "allGather", [&](Comm comm) {
    if (even(parts)) {
      return api().all_gather(x.data, y.data, moved.count(x.numel()), moved.type, comm, cuda_stream());
    }
    return grouped([&](const auto& add) {
      for (int p = 0; p < group_.size(); p++) {
        const size_t q = size_t(p);
        if (parts.count[q] == 0) continue;
        char* const to = bytes_of(y) + size_t(parts.begin[q]) * moved.each;
        const void* const from = p == group_.rank() ? x.data : to;
        add(api().broadcast(from, to, moved.count(parts.count[q]), moved.type, p, comm, cuda_stream()));
      }
    });
  });
}

void NcclGroup::gather(Stream& stream, const View& x, View* y, Rest counts, int root) {
  const Parts parts = parts_of("gather", counts, group_.size());
  const bool here = group_.rank() == root;
  expect_elements("gather", "the input", x, parts.count[size_t(group_.rank())]);
  if (here) {
    if (!y) fail(ErrorCode::Value, "gather: the root needs an output");
    expect_elements("gather", "the output", *y, parts.total);
  }
  group_.agree(stream, Collective::kGather, x.dtype, parts.total, root, counts, {});
  const Moved moved(x.dtype);
  const size_t n = moved.count(x.numel());
  const auto place = [&](size_t q) { return bytes_of(*y) + size_t(parts.begin[q]) * moved.each; };
  const bool native = api().gather && even(parts);
  if (here && !native) copy(place(size_t(root)), x.data, size_t(x.numel()) * moved.each);
  launch(stream, "gather", [&](Comm comm) {
    if (native) return api().gather(x.data, here ? y->data : nullptr, n, moved.type, root, comm, cuda_stream());
    return grouped([&](const auto& add) {
      if (!here && n > 0) add(api().send(x.data, n, moved.type, root, comm, cuda_stream()));
      for (int p = 0; here && p < group_.size(); p++) {
        const size_t q = size_t(p), theirs = moved.count(parts.count[q]);
        if (p != root && theirs > 0) add(api().recv(place(q), theirs, moved.type, p, comm, cuda_stream()));
      }
    });
  });
}

void NcclGroup::scatter(Stream& stream, const View* x, View& y, Rest counts, int root) {
  const Parts parts = parts_of("scatter", counts, group_.size());
  const bool here = group_.rank() == root;
  expect_elements("scatter", "the output", y, parts.count[size_t(group_.rank())]);
  if (here) {
    if (!x) fail(ErrorCode::Value, "scatter: the root needs an input");
    expect_elements("scatter", "the input", *x, parts.total);
  }
  group_.agree(stream, Collective::kScatter, y.dtype, parts.total, root, counts, {});
  const Moved moved(y.dtype);
  const size_t n = moved.count(y.numel());
  const auto place = [&](size_t q) { return bytes_of(*x) + size_t(parts.begin[q]) * moved.each; };
  const bool native = api().scatter && even(parts);
  if (here && !native) copy(y.data, place(size_t(root)), size_t(y.numel()) * moved.each);
  launch(stream, "scatter", [&](Comm comm) {
    if (native) return api().scatter(here ? x->data : nullptr, y.data, n, moved.type, root, comm, cuda_stream());
    return grouped([&](const auto& add) {
      if (!here && n > 0) add(api().recv(y.data, n, moved.type, root, comm, cuda_stream()));
      for (int p = 0; here && p < group_.size(); p++) {
        const size_t q = size_t(p), theirs = moved.count(parts.count[q]);
        if (p != root && theirs > 0) add(api().send(place(q), theirs, moved.type, p, comm, cuda_stream()));
      }
    });
  });
}

void NcclGroup::reduce_scatter(Stream& stream, const View& x, View& y, Rest counts, Reduction r) {
  check_reduction("reduceScatter", x.dtype, r.op);
  const Parts parts = parts_of("reduceScatter", counts, group_.size());
  expect_elements("reduceScatter", "the input", x, parts.total);
  expect_elements("reduceScatter", "the output", y, parts.count[size_t(group_.rank())]);
  reduced_type("reduceScatter", x.dtype);
  group_.agree(stream, Collective::kReduceScatter, x.dtype, parts.total, -1, counts, r);
  const size_t each = dtype_size(x.dtype);
  reducing(stream, "reduceScatter", x.dtype, r, [&](Comm comm, nccl::Type type, nccl::Op op) {
    if (even(parts)) { return api().reduce_scatter(x.data, y.data, size_t(y.numel()), type, op, comm, cuda_stream()); }
    return grouped([&](const auto& add) {
      for (int p = 0; p < group_.size(); p++) {
        const size_t q = size_t(p);
        if (parts.count[q] == 0) continue;
        const char* const from = bytes_of(x) + size_t(parts.begin[q]) * each;
        add(api().reduce(from, y.data, size_t(parts.count[q]), type, op, p, comm, cuda_stream()));
      }
    });
  });
}

// Whether the counts of all ranks are even no rank knows, so this is never one call of NCCL.
void NcclGroup::all_to_all(Stream& stream, const View& x, View& y, Rest counts) {
  if (counts.count != 2 * group_.size()) {
    fail(ErrorCode::Shape, "allToAll: expects two counts for each of ", group_.size(), " ranks, got ", counts.count);
  }
  const Parts out("allToAll", counts.first, group_.size()), in("allToAll", counts.first + group_.size(), group_.size());
  expect_elements("allToAll", "the input", x, out.total);
  expect_elements("allToAll", "the output", y, in.total);
  group_.agree(stream, Collective::kAllToAll, x.dtype, out.total, -1, counts, {});
  const Moved moved(x.dtype);
  const size_t me = size_t(group_.rank());
  copy(bytes_of(y) + size_t(in.begin[me]) * moved.each, bytes_of(x) + size_t(out.begin[me]) * moved.each,
       size_t(out.count[me]) * moved.each);
  launch(stream, "allToAll", [&](Comm comm) {
    return grouped([&](const auto& add) {
      for (int p = 0; p < group_.size(); p++) {
        const size_t q = size_t(p), sent = moved.count(out.count[q]), received = moved.count(in.count[q]);
        if (q == me) continue;
        const char* const from = bytes_of(x) + size_t(out.begin[q]) * moved.each;
        char* const to = bytes_of(y) + size_t(in.begin[q]) * moved.each;
        if (sent > 0) add(api().send(from, sent, moved.type, p, comm, cuda_stream()));
        if (received > 0) add(api().recv(to, received, moved.type, p, comm, cuda_stream()));
      }
    });
  });
}

void NcclGroup::exchange(Stream& stream, const std::vector<Message>& messages) {
  group_.agree(stream, messages);
  launch(stream, "exchange", [&](Comm comm) {
    return grouped([&](const auto& add) {
      for (const Message& m : messages) {
        const Moved moved(m.x.dtype);
        const size_t n = moved.count(m.x.numel());
        if (n == 0) continue;
        add(m.out ? api().send(m.x.data, n, moved.type, m.peer, comm, cuda_stream())
                  : api().recv(m.x.data, n, moved.type, m.peer, comm, cuda_stream()));
      }
    });
  });
}

// On the device too: what the ranks called before is done when this is. Memory is asked for first: that may wait for
// the GPU, and after the agreement another rank's kernel may be on the same one, waiting for ours.
void NcclGroup::barrier(Stream& stream) {
  Scratch scratch;
  float* const token = scratch.take<float>(1);
  check(cudaMemsetAsync(token, 0, sizeof(float), cuda_stream()), "cudaMemsetAsync");
  group_.agree(stream, Collective::kBarrier, DType::k_uint8, 0, -1, {nullptr, 0}, {});
  launch(stream, "barrier",
         [&](Comm comm) { return api().all_reduce(token, token, 1, nccl::kFloat32, nccl::kSum, comm, cuda_stream()); });
}

NcclLibrary find_nccl() { return {nccl::find().version, nccl::find().problem}; }

std::string make_nccl_id() {
  nccl::UniqueId id;
  const Result result = api().get_unique_id(&id);
  if (result != nccl::kSuccess) fail(ErrorCode::Distributed, nccl::explain("ncclGetUniqueId", result, nullptr));
  return std::string(id.bytes, sizeof id.bytes);
}

void start_nccl(Stream& stream, Group& group, const char* id) {
  group.agree(stream, Collective::kStartNccl, DType::k_uint8, 0, -1, {nullptr, 0}, {});
  nccl::UniqueId unique;
  std::copy_n(id, sizeof unique.bytes, unique.bytes);
  group.carry_by(std::make_unique<NcclGroup>(group, Communicator::create(stream, group, unique)));
}

void split_nccl(Stream& stream, Group& group, const std::shared_ptr<Group>& part, int color, int key) {
  group.agree(stream, Collective::kSplitNccl, DType::k_uint8, 0, -1, {nullptr, 0}, {});
  auto* const whole = dynamic_cast<NcclGroup*>(&group.carrier());
  if (!whole) fail(ErrorCode::Distributed, "process group ", group.name(), " is not one that NCCL carries");
  auto made = whole->communicator().split(stream, group, part, part ? color : nccl::kNoColor, key);
  if (part) part->carry_by(std::make_unique<NcclGroup>(*part, std::move(made)));
}

}  // namespace sg
