// Turns a method of Device into a row of the op table. What it takes (tensors, absent ones, numbers, rests) is read off
// its parameter types: at enqueue time to check the arity, on the stream's thread to unpack the arguments.
#pragma once
#include <array>
#include <utility>

#include "../core/device.h"
#include "contract.h"

namespace sg {

enum class OpKind { kPointwise, kReduce, kStructured };
enum class TensorKind : uint8_t { kIn, kOut, kMaybeIn, kMaybeOut, kIns };

inline constexpr int kMaxNamedTensors = 16;

// The arguments of one command, unpacked.
struct OpArguments {
  View* views;
  int view_count;
  uint32_t absent;  // bit i: tensor i is absent
  const double* numbers;
  int number_count;
};

struct OpRow {
  const char* name;
  OpKind kind;
  int code;  // of the pointwise or reduce table
  const TensorKind* tensors;
  int tensor_count;  // with the list of an `Ins` counted as one
  bool any_tensors;  // the last one is an `Ins`
  int number_count;  // without a Rest
  bool any_numbers;  // a `Rest` follows
  void (*invoke)(Stream&, Device&, const OpRow&, OpArguments&);
  const Contract* contract;  // of structured ops
  // Its name in the faults of a stream, where JavaScript knows it by another.
  const char* spoken = name;
};

// How one parameter is taken out of the arguments; `t` and `n` are its places among tensors and numbers.
template <class P>
struct Parameter;
template <>
struct Parameter<In> {
  static constexpr TensorKind kind = TensorKind::kIn;
  static In get(OpArguments& a, int t, int) { return a.views[t]; }
};
template <>
struct Parameter<Out> {
  static constexpr TensorKind kind = TensorKind::kOut;
  static Out get(OpArguments& a, int t, int) { return a.views[t]; }
};
template <>
struct Parameter<MaybeIn> {
  static constexpr TensorKind kind = TensorKind::kMaybeIn;
  static MaybeIn get(OpArguments& a, int t, int) { return {a.absent >> t & 1 ? nullptr : &a.views[t]}; }
};
template <>
struct Parameter<MaybeOut> {
  static constexpr TensorKind kind = TensorKind::kMaybeOut;
  static MaybeOut get(OpArguments& a, int t, int) { return {a.absent >> t & 1 ? nullptr : &a.views[t]}; }
};
template <>
struct Parameter<Ins> {
  static constexpr TensorKind kind = TensorKind::kIns;
  static Ins get(OpArguments& a, int t, int) { return {a.views + t, a.view_count - t}; }
};
template <>
struct Parameter<double> {
  static double get(OpArguments& a, int, int n) { return a.numbers[n]; }
};
template <>
struct Parameter<Rest> {
  static Rest get(OpArguments& a, int, int n) { return {a.numbers + n, a.number_count - n}; }
};

template <class P>
inline constexpr bool is_tensor = requires { Parameter<P>::kind; };

template <auto kMethod>
struct Call;
template <class... P, void (Device::*kMethod)(P...)>
struct Call<kMethod> {
  static constexpr int count = sizeof...(P);
  static constexpr int tensors = (0 + ... + int(is_tensor<P>));
  static constexpr bool tensor_at[] = {is_tensor<P>...};
  static constexpr bool any_tensors = (false || ... || std::is_same_v<P, Ins>);
  static constexpr bool any_numbers = (false || ... || std::is_same_v<P, Rest>);

  static constexpr int tensors_before(int i) {
    int n = 0;
    for (int j = 0; j < i; j++) n += tensor_at[j];
    return n;
  }
  static constexpr auto kinds = [] {
    std::array<TensorKind, size_t(tensors) + 1> all{};
    size_t n = 0;
    (
        [&] {
          if constexpr (is_tensor<P>) all[n++] = Parameter<P>::kind;
        }(),
        ...);
    return all;
  }();
  static_assert(tensors <= kMaxNamedTensors);
  static_assert(!any_tensors || kinds[tensors - 1] == TensorKind::kIns, "an Ins is the last tensor");

  template <size_t... I>
  static void unpack(Device& device, OpArguments& a, std::index_sequence<I...>) {
    (device.*kMethod)(Parameter<P>::get(a, tensors_before(I), int(I) - tensors_before(I))...);
  }
  static void invoke(Stream&, Device& device, const OpRow&, OpArguments& a) {
    unpack(device, a, std::make_index_sequence<sizeof...(P)>());
  }
};

template <auto kMethod>
OpRow structured(const char* name, const char* contract) {
  using C = Call<kMethod>;
  return {name,
          OpKind::kStructured,
          0,
          C::kinds.data(),
          C::tensors,
          C::any_tensors,
          C::count - C::tensors - int(C::any_numbers),
          C::any_numbers,
          C::invoke,
          new Contract(contract)};  // lives as long as the process, as the table does
}

std::vector<OpRow> collective_rows();  // collectives.cc
// tables.cc: every op; the index is its id.
const std::vector<OpRow>& op_table();

}  // namespace sg
