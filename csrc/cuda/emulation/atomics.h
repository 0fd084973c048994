// Atomic operations for the emulator: threads of a kernel never run at the same time and are never preempted between
// the two calls below, so a plain read-modify-write is atomic. The race checker must know that it is meant to be.
#pragma once

namespace sg::emulation {

SG_EMULATION_API void read_quietly(void* to, const void* from, size_t bytes);  // not looked at by the checker
SG_EMULATION_API void write_quietly(void* to, const void* from, size_t bytes);

template <class T, class Update>
SG_DEVICE T read_modify_write(T* p, Update update) {
  note_access(p, sizeof(T), Access::Atomic);
  T old;
  read_quietly(&old, p, sizeof(T));
  const T next = update(old);
  write_quietly(p, &next, sizeof(T));
  return old;
}

}  // namespace sg::emulation

#define SG_ATOMIC(name, expression)                                                                \
  template <class T>                                                                               \
  inline T name(T* p, std::type_identity_t<T> value) {                                             \
    return sg::emulation::read_modify_write(p, [&](T old) { return static_cast<T>(expression); }); \
  }
SG_ATOMIC(atomicAdd, old + value)
SG_ATOMIC(atomicSub, old - value)
SG_ATOMIC(atomicMin, value < old ? value : old)
SG_ATOMIC(atomicMax, old < value ? value : old)
SG_ATOMIC(atomicAnd, old& value)
SG_ATOMIC(atomicOr, old | value)
SG_ATOMIC(atomicXor, old ^ value)
SG_ATOMIC(atomicExch, (static_cast<void>(old), value))
SG_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
SG_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef SG_ATOMIC
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return sg::emulation::read_modify_write(p, [&](T old) { return old == expected ? value : old; });
}
