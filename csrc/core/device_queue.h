// DeviceQueue: the part of a stream that lives on an accelerator. The stream's thread launches work into it and asks it
// how far it has got; it never waits for it. Events are the queue's own and are reused.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "error.h"

namespace sg {

struct Fault {
  ErrorCode code;
  std::string text;
};

// All calls come from the thread that runs the stream's commands. They throw what the device reports.
class DeviceQueue {
 public:
  using Event = void*;
  virtual ~DeviceQueue() = default;
  virtual void attach() = 0;   // first call of a thread: it works for this device from now on
  virtual Event record() = 0;  // all that was launched so far
  virtual bool reached(Event event) = 0;
  virtual void recycle(Event event) noexcept = 0;  // any thread
  virtual void wait(Event event) = 0;              // what is launched from now on waits for it, on the device
  // What a kernel found in its data (an index out of range) since the last call.
  virtual std::optional<Fault> take_fault() = 0;
  // ---- graphs: between these two, what is launched goes into a graph and not to the device, and nothing can be asked
  // or waited for. Random kernels take their keys from `keys` in the device's memory, so a replay draws other numbers.
  class Graph {
   public:
    virtual ~Graph() = default;
  };
  virtual void begin_capture(const void* keys) = 0;
  virtual std::unique_ptr<Graph> finish_capture() = 0;
  virtual void launch(Graph& graph) = 0;
  virtual bool capturing() const = 0;
  virtual void end_capture() = 0;  // the graph will not come about
};

}  // namespace sg
