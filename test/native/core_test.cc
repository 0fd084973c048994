// The core without Node, for ThreadSanitizer: the pool under several callers, streams with events and faults under tiny
// queue limits, and the allocator's stream-ordered reuse against kernels that check their memory. Ranks follow in
// comm_test.cc. Prints what failed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "../../csrc/core/caching_allocator.h"
#include "../../csrc/core/platform.h"
#include "../../csrc/core/stream.h"
#include "../../csrc/core/thread_pool.h"

using namespace sg;

void test_comm();  // comm_test.cc

namespace {

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::exit(1);
}

void test_pool() {
  ThreadPool& pool = ThreadPool::instance();
  pool.set_threads(3);
  const auto caller = [&] {
    for (int round = 0; round < 2000; round++) {
      std::vector<int> count(size_t(1 + round % 97));
      pool.run(int(count.size()), [&](int i) {
        count[size_t(i)]++;
        if (round % 50 == 0) pool.run(3, [](int) {});
      });
      expect(std::accumulate(count.begin(), count.end(), 0) == int(count.size()), "every task runs once");
      if (round % 100) continue;
      try {
        pool.run(20, [](int i) {
          if (i >= 7) fail(ErrorCode::Shape, "task ", i);
        });
        expect(false, "an exception of a task is rethrown");
      } catch (const Error& e) { expect(!std::strcmp(e.what(), "task 7"), "the lowest failing task is named"); }
    }
  };
  std::thread other(caller), third(caller);
  caller();
  other.join();
  third.join();
}

struct Add {
  int* value;
  int by;
};
void add(Stream&, void* p) {
  const Add& a = *static_cast<Add*>(p);
  *a.value += a.by;
}
void fail_command(Stream&, void*) { fail(ErrorCode::Value, "index 7 is out of range"); }

// A device whose events are reached when the test says so.
struct SlowDevice : DeviceQueue {
  struct Shared {
    std::atomic<uintptr_t> reached{0};
    std::atomic<bool> found{false};
  };
  explicit SlowDevice(Shared& shared) : shared_(shared) {}
  void attach() override {}
  Event record() override { return reinterpret_cast<Event>(++recorded_); }
  bool reached(Event event) override { return reinterpret_cast<uintptr_t>(event) <= shared_.reached; }
  void recycle(Event) noexcept override {}
  void wait(Event) override {}
  std::optional<Fault> take_fault() override {
    if (!shared_.found.exchange(false)) return std::nullopt;
    return Fault{ErrorCode::Value, "found by a kernel"};
  }
  void begin_capture(const void*) override {}
  std::unique_ptr<Graph> finish_capture() override { return nullptr; }
  void launch(Graph&) override {}
  bool capturing() const override { return false; }
  void end_capture() override {}

 private:
  Shared& shared_;
  uintptr_t recorded_ = 0;
};

// What a reader is told when its turn has come: the fault of the commands before it, however late the device finds it,
// and none of those behind it.
void test_faults_of_a_device() {
  struct Reader {
    uint64_t command = 0;
    std::atomic<bool> over{false};
    std::optional<Fault> fault;
  };
  const auto read = [](Stream& stream, void* payload) {
    Reader* const r = *static_cast<Reader**>(payload);
    r->command = stream.running();
    const auto finish = [](Stream& self, void* argument) {
      Reader* const reader = static_cast<Reader*>(argument);
      reader->fault = self.take_fault(reader->command);
      reader->over = true;
    };
    stream.when_done(finish, r);
  };
  const auto wait = [](const auto& condition) {
    while (!condition()) std::this_thread::yield();
  };
  SlowDevice::Shared device;
  Stream stream("device", std::make_unique<SlowDevice>(device));
  int value = 0;
  Reader before, after;
  stream.enqueue(add, "add", Add{&value, 1});
  stream.enqueue(read, "read", &before, true);
  stream.enqueue(fail_command, "fail", 0);
  stream.enqueue(add, "add", Add{&value, 1});
  wait([&] { return stream.faulted(); });
  device.reached = UINTPTR_MAX;
  wait([&] { return before.over.load(); });
  expect(!before.fault && stream.faulted(), "a reader does not take the fault of a later command");
  stream.host_wait_all();
  expect(value == 1 && stream.take_fault(), "the fault is the next one's");

  device.reached = 0;
  stream.enqueue(add, "add", Add{&value, 1});
  stream.enqueue(read, "read", &after, true);
  stream.enqueue(fail_command, "fail", 0);
  wait([&] { return stream.faulted(); });
  device.found = true;
  device.reached = UINTPTR_MAX;
  wait([&] { return after.over.load(); });
  expect(after.fault && after.fault->text == "found by a kernel",
         "what a kernel found is told to who reads its results");
}

// Two streams write the same memory in turns; events keep them apart, or ThreadSanitizer speaks up.
void test_streams(uint64_t limit, int64_t spin_ns) {
  stream_settings().queue_limit = limit;
  stream_settings().spin_ns = spin_ns;
  Stream a("a"), b("b");
  int value = 0;
  for (int i = 0; i < 3000; i++) {
    a.enqueue(add, "add", Add{&value, 1});
    b.wait_stream(a);
    b.enqueue(add, "add", Add{&value, 2});
    a.wait_stream(b);
    if (i % 500 == 499) {
      a.host_wait_all();
      expect(value == 3 * (i + 1), "streams take turns");
    }
  }
  // Commands of every length, across segments and larger than one.
  std::vector<int> sums(2000);
  for (size_t i = 0; i < sums.size(); i++) {
    const size_t words = i % 100 == 0 ? 20000 : i % 37;
    struct Header {
      int* to;
      size_t words;
    };
    char* p = static_cast<char*>(a.begin(sizeof(Header) + words * sizeof(int)));
    new (p) Header{&sums[i], words};
    for (size_t w = 0; w < words; w++) reinterpret_cast<int*>(p + sizeof(Header))[w] = 1;
    const auto sum = [](Stream&, void* payload) {
      const Header& h = *static_cast<Header*>(payload);
      const int* first = reinterpret_cast<const int*>(&h + 1);
      *h.to = std::accumulate(first, first + h.words, 0);
    };
    a.commit(sum, "sum", sizeof(Header) + words * sizeof(int));
  }
  a.host_wait_all();
  for (size_t i = 0; i < sums.size(); i++) {
    expect(sums[i] == int(i % 100 == 0 ? 20000 : i % 37), "payloads arrive whole");
  }
}

void test_faults() {
  Stream a("a"), b("b");
  int value = 0;
  a.enqueue(fail_command, "gather", 0);
  a.enqueue(add, "add", Add{&value, 1});         // skipped
  a.enqueue(add, "add", Add{&value, 10}, true);  // runs always
  b.wait_stream(a);
  b.enqueue(add, "add", Add{&value, 100});  // skipped: the fault came along
  b.host_wait(b.issued());
  a.host_wait_all();
  const auto fault = a.take_fault(), copy = b.take_fault();
  expect(fault && fault->text == "gather: index 7 is out of range" && fault->code == ErrorCode::Value,
         "a fault is kept");
  expect(copy && copy->text == fault->text, "an event hands the fault on");
  expect(value == 10, "what follows a fault is skipped");
  a.enqueue(add, "add", Add{&value, 1});
  a.host_wait_all();
  expect(value == 11 && !a.faulted(), "a stream works again after its fault was taken");
}

// Commands that arrive just as the stream falls asleep, on more threads than cores: a lost wake-up hangs here.
void test_sleep(int64_t spin_ns) {
  stream_settings().queue_limit = 16384;
  stream_settings().spin_ns = spin_ns;
  std::vector<std::thread> producers;
  for (int t = 0; t < 4; t++) {
    producers.emplace_back([spin_ns] {
      constexpr int kCommands = 10000;
      Stream s("sleeper");
      int value = 0;
      for (int i = 0; i < kCommands; i++) {
        s.enqueue(add, "add", Add{&value, 1});
        for (const int64_t until = now_ns() + spin_ns + i % 64 * 50; now_ns() < until;) {}
      }
      s.host_wait(s.issued());
      expect(value == kCommands, "every command runs");
    });
  }
  for (auto& p : producers) p.join();
}

// A producer that waits for every few commands comes to run them itself; what it leaves lying runs soon all the same.
void test_help() {
  stream_settings().queue_limit = 16384;
  stream_settings().spin_ns = 50'000;
  std::thread([] {  // which has no other streams
    struct Count {
      std::atomic<int>* own;
      std::atomic<int>* all;
      std::thread::id producer;
    };
    const auto count = [](Stream&, void* p) {
      const Count& c = *static_cast<Count*>(p);
      if (std::this_thread::get_id() == c.producer) ++*c.own;
      ++*c.all;
    };
    Stream a("a"), b("b");
    std::atomic<int> own{0}, all{0};
    int given = 0;
    const auto give = [&](Stream& to) {
      to.enqueue(count, "count", Count{&own, &all, std::this_thread::get_id()});
      given++;
    };
    for (int round = 0; round < 200; round++) {
      for (int i = 0; i < 40; i++) {
        give(a);
        if (i % 3 == 0) give(a);
        b.wait_stream(a);
        if (i % 4 == 0) give(b);
        for (Stream* s : {&a, &b}) s->host_wait_all();
        expect(all == given, "what was waited for has run");
      }
      // left lying: few, which the stream finds in a nap, or many, which wake it
      for (int i = 0; i < (round % 2 ? 2 : 50); i++) give(a);
      for (const int64_t end = now_ns() + 5'000'000'000; all != given && now_ns() < end;) std::this_thread::yield();
      expect(all == given, "what nobody waits for runs, too");
      if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));  // past all naps
    }
    expect(own > 200 * 40 / 2, "the producer has run most of what it waited for");
  })
      .join();
}

// A full queue must not hold the producer back while the stream waits for something this very thread does later.
void test_growth() {
  stream_settings().queue_limit = 4;
  Stream a("a"), b("b");
  int value = 0;
  std::atomic<bool> open{false};
  struct Gate {
    std::atomic<bool>* open;
  };
  const auto gate = [](Stream& self, void* p) {
    Stream::Waiting mark(self);
    while (!static_cast<Gate*>(p)->open->load() && !self.halting()) std::this_thread::yield();
  };
  b.enqueue(gate, "gate", Gate{&open});
  a.wait_stream(b);
  for (int i = 0; i < 1000; i++) a.enqueue(add, "add", Add{&value, 1});
  open = true;
  a.host_wait_all();
  expect(value == 1000, "a waiting stream lets its queue grow");
  open = false;
  b.enqueue(gate, "gate", Gate{&open});  // both are halted in mid-work
  a.wait_stream(b);
  for (int i = 0; i < 100; i++) a.enqueue(add, "add", Add{&value, 1});
  a.halt();
  b.halt();
  a.join();
  b.join();
}

struct TestSource final : MemorySource {
  Stream streams[kStreamsPerDevice]{Stream("compute"), Stream("communication")};
  size_t mapped = 0, most = size_t(256) << 20;
  void* map(size_t bytes) override {
    if (mapped + bytes > most) return nullptr;
    mapped += bytes;
    return map_pages(bytes);
  }
  void unmap(void* p, size_t bytes) override {
    mapped -= bytes;
    unmap_pages(p, bytes);
  }
  size_t limit() const override { return most; }
  bool unmaps_at_once() const override { return true; }
  uint64_t issued(int s) const override { return streams[s].issued(); }
  bool passed(int s, uint64_t seq) const override { return streams[s].passed(seq); }
  bool wait(int s, uint64_t seq) override { return streams[s].host_wait_unless_waiting(seq); }
};

struct Fill {
  unsigned char* at;
  size_t bytes;
  unsigned char value;
};
void fill_memory(Stream&, void* p) {
  const Fill& f = *static_cast<Fill*>(p);
  std::memset(f.at, f.value, f.bytes);
}
void check_memory(Stream&, void* p) {
  const Fill& f = *static_cast<Fill*>(p);
  for (size_t i = 0; i < f.bytes; i += 97) {
    if (f.at[i] != f.value) fail(ErrorCode::Internal, "a block was reused too early");
  }
}

// Random blocks are filled on compute and checked on communication, and freed while both are queued.
void test_allocator() {
  stream_settings().queue_limit = 64;
  TestSource source;
  CachingAllocator allocator(source, "test:0");
  Stream &compute = source.streams[0], &communication = source.streams[1];
  std::vector<Block*> held;
  uint32_t random = 12345;
  const auto next = [&](uint32_t n) { return (random = random * 1664525 + 1013904223) / 65536 % n; };
  for (int i = 0; i < 6000; i++) {
    const size_t bytes = next(20) == 0 ? (1 + next(12)) << 20 : 1 + next(60000);
    Block* b = allocator.allocate(bytes, kComputeStream);
    expect(reinterpret_cast<uintptr_t>(b->data) % 64 == 0 && b->size >= bytes, "a block is aligned and large enough");
    const size_t part = std::min<size_t>(bytes, 4096);
    auto* at = reinterpret_cast<unsigned char*>(b->data);
    const auto value = static_cast<unsigned char>(i);
    compute.enqueue(fill_memory, "fill", Fill{at, part, value});
    if (next(3) == 0) {
      communication.wait_event(compute, compute.issued());
      communication.enqueue(check_memory, "check", Fill{at, part, value});
      CachingAllocator::record_use(b, kCommunicationStream, communication.issued());
    } else {
      compute.enqueue(check_memory, "check", Fill{at, part, value});
    }
    held.push_back(b);
    if (held.size() > 40 || next(2)) {
      std::swap(held[next(uint32_t(held.size()))], held.back());
      allocator.free(held.back());
      held.pop_back();
    }
    if (i % 1000 == 999) allocator.empty_cache();
  }
  for (Block* b : held) allocator.free(b);
  for (Stream& s : source.streams) {
    s.host_wait(s.issued());
    const auto fault = s.take_fault();
    if (fault) std::fprintf(stderr, "%s\n", fault->text.c_str());
    expect(!fault, "no kernel saw another's memory");
  }
  allocator.empty_cache();
  const MemoryStats stats = allocator.stats();
  expect(stats.liveBytes == 0 && stats.liveCount == 0 && stats.pendingBytes == 0, "nothing is live at the end");
  expect(stats.reservedBytes == 0 && stats.segments == 0 && source.mapped == 0, "everything merges and goes back");
  try {
    allocator.allocate(size_t(1) << 50, kComputeStream);
    expect(false, "an absurd size is refused");
  } catch (const Error& e) { expect(e.code == ErrorCode::OutOfMemory, "an absurd size is OutOfMemory"); }
}

// What was loaded in pieces that nothing fits into does not stay beside what comes after it, and sizes that alternate
// end with segments that serve both.
void test_trading_in() {
  constexpr size_t kMiB = size_t(1) << 20;
  TestSource source;
  CachingAllocator allocator(source, "test:0");
  std::vector<Block*> pieces;
  for (int i = 0; i < 4; i++) pieces.push_back(allocator.allocate(12 * kMiB, kComputeStream));
  for (Block* b : pieces) allocator.free(b);
  Block* whole = allocator.allocate(48 * kMiB, kComputeStream);
  expect(source.mapped == 48 * kMiB, "idle pieces make room for what they cannot hold");
  allocator.free(whole);
  for (int round = 0; round < 50; round++) {
    for (Block*& b : pieces) b = allocator.allocate((20 + size_t(round % 2) * 13) * kMiB, kComputeStream);
    for (Block* b : pieces) allocator.free(b);
  }
  const double segments = allocator.stats().segments;
  const size_t mapped = source.mapped;
  for (int round = 0; round < 10; round++) {
    for (Block*& b : pieces) b = allocator.allocate((20 + size_t(round % 2) * 13) * kMiB, kComputeStream);
    for (Block* b : pieces) allocator.free(b);
  }
  expect(source.mapped == mapped && allocator.stats().segments == segments, "sizes that alternate come to rest");
  expect(mapped <= 160 * kMiB, "with no more than a little beside the larger of them");
  allocator.empty_cache();
}

}  // namespace

int main() {
  stream_settings().inline_mode = false;
  test_pool();
  test_streams(16384, 50'000);
  test_streams(1, 50'000);
  test_streams(8, 0);
  test_faults();
  test_faults_of_a_device();
  test_sleep(0);
  test_sleep(5000);
  test_help();
  test_growth();
  test_allocator();
  test_trading_in();
  test_comm();
  std::puts("core_test: ok");
}
