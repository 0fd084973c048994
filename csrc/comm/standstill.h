// Standstill: whether a synchronous wait of JavaScript's thread can never end. Simulated ranks share a thread; when it
// waits for one of them, none of them calls anything. Either the awaited stream is in a call that one of them has still
// to make, or nothing on this thread can ever change: all its streams have run out of commands or wait for each other,
// in groups whose ranks are all on this thread, and none of them has got what it waits for since that was so. That is a
// proof: whoever would be the first to go on has looked when everything was as it is now.
#pragma once
#include <optional>
#include <string>

namespace sg {

class Stream;

// Why `stream`, for which this thread waits, can never go on; nothing as long as that is not known. To be asked again
// and again: a proof takes a look of every stream at what it waits for.
std::optional<std::string> find_standstill(const Stream& stream);

}  // namespace sg
