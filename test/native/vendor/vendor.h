// What our declarations of a vendor's library mean in the vendor's own types. A function of ours is translated type by
// type and must then be the vendor's exactly: two enumerations in the wrong order have the same sizes and would be
// called all the same.
#pragma once
#include <type_traits>

namespace sg::vendor {

// Vendor<Ours>::type; what is not told below or by the library's own file is the same type on both sides.
template <class T>
struct Vendor {
  using type = T;
};
template <class T>
using vendor_t = typename Vendor<T>::type;

template <class T>
struct Vendor<T*> {
  using type = vendor_t<T>*;
};
template <class T>
struct Vendor<const T> {
  using type = const vendor_t<T>;
};
template <class R, class... P>
struct Vendor<R(P...)> {
  using type = vendor_t<R>(vendor_t<P>...);
};

#define SG_IS(ours, theirs) \
  template <>               \
  struct Vendor<ours> {     \
    using type = theirs;    \
  };
#define SG_VALUE(ours, theirs) static_assert(static_cast<long long>(ours) == static_cast<long long>(theirs));
// A member of a struct: the same place, the same size, and numbers of the same kind.
#define SG_MEMBER(Ours, ours, Theirs, theirs)                      \
  static_assert(offsetof(Ours, ours) == offsetof(Theirs, theirs)); \
  static_assert(sizeof(Ours::ours) == sizeof(Theirs::theirs));     \
  static_assert(std::is_floating_point_v<decltype(Ours::ours)> == std::is_floating_point_v<decltype(Theirs::theirs)>);

}  // namespace sg::vendor
