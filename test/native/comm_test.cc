// Ranks on threads, over shared memory and over loopback connections, for ThreadSanitizer: collectives of sizes that go
// in one and in many pieces and of shared tensors, messages between them, a heartbeat thread beside them, and ranks
// that leave, give up, disagree and wait for each other in different groups.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../csrc/comm/shm_group.h"
#include "../../csrc/comm/tcp_group.h"

using namespace sg;

namespace {

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::exit(1);
}

// Descriptors as TcpGroup::join takes them, for each rank; the higher one of a pair has connected.
std::vector<std::vector<int>> connections(int ranks) {
  std::vector<std::vector<int>> all(size_t(ranks), std::vector<int>(2 * size_t(ranks), -1));
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  sockaddr* const a = reinterpret_cast<sockaddr*>(&address);
  expect(bind(listener, a, length) == 0 && listen(listener, 16) == 0 && getsockname(listener, a, &length) == 0,
         "a port to listen on");
  for (size_t high = 1; high < size_t(ranks); high++) {
    for (size_t low = 0; low < high; low++) {
      for (size_t kind = 0; kind < 2; kind++) {
        all[high][2 * low + kind] = socket(AF_INET, SOCK_STREAM, 0);
        expect(connect(all[high][2 * low + kind], a, length) == 0, "a connection");
        all[low][2 * high + kind] = accept(listener, nullptr, nullptr);
      }
    }
  }
  close(listener);
  return all;
}

View view_of(std::vector<float>& x) {
  View v;
  v.data = x.data();
  v.ndim = 1;
  v.shape[0] = int64_t(x.size());
  v.strides[0] = 1;
  return v;
}

GroupInfo info_of(int rank, int ranks) {
  GroupInfo info;
  info.name = "world";
  info.rank = rank;
  info.size = ranks;
  info.recorder = std::make_shared<FlightRecorder>("", rank);
  info.timeout_ns = 20'000'000'000;
  return info;
}

using Groups = std::vector<std::shared_ptr<Group>>;

Groups over_tcp(const std::vector<GroupInfo>& infos) {
  static int count = 0;
  const std::string key = "test " + std::to_string(count++);
  const int ranks = int(infos.size());
  const auto all = connections(ranks);
  Groups groups;
  for (int r = 0; r < ranks; r++) {
    GroupInfo info = infos[size_t(r)];
    info.key = key;
    groups.push_back(TcpGroup::join(info, all[size_t(r)], {4096, 8192}));
    for (const int descriptor : all[size_t(r)]) {
      if (descriptor >= 0) close(descriptor);
    }
  }
  return groups;
}

Groups over_shared_memory(const std::vector<GroupInfo>& infos) {
  static int count = 0;
  const std::string segment = "/shardgrad-test-" + std::to_string(getpid()) + "-" + std::to_string(count++);
  Groups groups;
  for (const GroupInfo& info : infos) groups.push_back(ShmGroup::join(info, segment, {4096, 1024}));
  groups[0]->seal();
  return groups;
}

using Transport = Groups (*)(const std::vector<GroupInfo>& infos);

Groups world_of(Transport transport, int ranks) {
  std::vector<GroupInfo> infos;
  for (int r = 0; r < ranks; r++) infos.push_back(info_of(r, ranks));
  return transport(infos);
}

// By world rank; null where a rank is no member.
Groups part_of(Transport transport, const Groups& world, const std::string& name, const std::vector<int>& members) {
  std::vector<GroupInfo> infos;
  for (const int m : members) {
    GroupInfo info = world[size_t(m)]->info();
    info.name = name;
    info.rank = int(infos.size());
    info.size = int(members.size());
    info.world_ranks = members;
    info.world = world[size_t(m)];
    infos.push_back(info);
  }
  const Groups made = transport(infos);
  Groups part(world.size());
  for (size_t i = 0; i < members.size(); i++) part[size_t(members[i])] = made[i];
  return part;
}

template <class F>
void on_ranks(Transport transport, int ranks, const F& f) {
  const auto groups = world_of(transport, ranks);
  std::vector<std::thread> threads;
  for (const auto& group : groups) {
    threads.emplace_back([&] {
      Stream stream("test");
      group->enter(stream, 0, 0);
      f(*group, stream);
      group->leave();
    });
  }
  for (std::thread& t : threads) t.join();
}

void test_collectives(Transport transport, int ranks) {
  on_ranks(transport, ranks, [&](Group& group, Stream& stream) {
    const float total = float(ranks * (ranks + 1) / 2);
    for (int round = 0; round < 60; round++) {
      std::vector<float> x(size_t(round * round * 13), float(group.rank() + 1));
      View v = view_of(x);
      group.all_reduce(stream, v, {});
      expect(x.empty() || (x.front() == total && x.back() == total), "the sum of all ranks");
      std::fill(x.begin(), x.end(), float(group.rank()));
      group.broadcast(stream, v, round % ranks);
      expect(x.empty() || (x.front() == float(round % ranks) && x.back() == x.front()), "what the root has sent");
      std::vector<float> out(x.size(), float(group.rank())), in(x.size());
      const int next = (group.rank() + 1) % ranks, last = (group.rank() + ranks - 1) % ranks;
      if (ranks > 1) group.exchange(stream, {{view_of(out), next, true}, {view_of(in), last, false}});
      expect(in.empty() || ranks == 1 || in.back() == float(last), "the message of the rank before");
    }
    std::shared_ptr<void> owner;
    View shared;
    for (int round = 0; round < 20; round++) {
      // some ranks pass a new one where others pass the one before
      const int64_t n = 20'000;
      if (!owner || (round + group.rank()) % 3 == 0) {
        shared.data = group.share(size_t(n) * sizeof(float), owner);
        shared.ndim = 1;
        shared.shape[0] = n;
        shared.strides[0] = 1;
      }
      float* const x = static_cast<float*>(shared.data);
      std::fill(x, x + n, float(group.rank() + 1));
      group.all_reduce(stream, shared, {});
      expect(x[0] == total && x[n - 1] == total, "the sum in shared memory");
    }
    group.barrier(stream);
  });
}

// What a carrier asks before it moves anything.
void test_agreement(Transport transport, int ranks) {
  on_ranks(transport, ranks, [&](Group& group, Stream& stream) {
    std::vector<float> x(3);
    const View v = view_of(x);
    const int next = (group.rank() + 1) % ranks, last = (group.rank() + ranks - 1) % ranks;
    const Message out{v, next, true}, in{v, last, false};
    const std::vector<double> counts(2 * size_t(ranks), 5);
    for (int round = 0; round < 60; round++) {
      group.agree(stream, Collective::kAllReduce, DType::k_float32, 100 + round, -1, {nullptr, 0}, {});
      group.agree(stream, Collective::kAllToAll, DType::k_float32, 5 * ranks, -1, {counts.data(), 2 * ranks}, {});
      if (ranks == 1) continue;
      // what one rank calls at once, another calls in turn
      if (group.rank() % 2 == 0) group.agree(stream, {out, in, out, in, out, in});
      for (int i = 0; group.rank() % 2 == 1 && i < 3; i++) {
        group.agree(stream, {in});
        group.agree(stream, {out});
      }
    }
    group.barrier(stream);
  });
}

template <class F>
void expect_error(const char* part, const F& f) {
  try {
    f();
    expect(false, "an error");
  } catch (const Error& e) { expect(std::strstr(e.what(), part) != nullptr, e.what()); }
}

void test_faults(Transport transport) {
  on_ranks(transport, 3, [](Group& group, Stream& stream) {
    group.barrier(stream);
    if (group.rank() == 1) return;
    expect_error("rank 1 has left before", [&] { group.barrier(stream); });
  });
  on_ranks(transport, 3, [](Group& group, Stream& stream) {
    if (group.rank() == 1) return group.abort("a reason");
    expect_error("a reason", [&] {
      for (;;) group.barrier(stream);
    });
  });
  on_ranks(transport, 3, [](Group& group, Stream& stream) {
    std::vector<float> x(group.rank() == 2 ? 5000 : 5001);
    View v = view_of(x);
    expect_error("disagree in call #1", [&] { group.all_reduce(stream, v, {}); });
    expect_error("disagree in call #1", [&] { group.barrier(stream); });
  });
  on_ranks(transport, 2, [](Group& group, Stream& stream) {
    const bool other = group.rank() == 1;
    expect_error("disagree in call #1", [&] {
      group.agree(stream, Collective::kReduce, other ? DType::k_int64 : DType::k_int32, 4, 0, {nullptr, 0}, {});
    });
  });
  on_ranks(transport, 2, [](Group& group, Stream& stream) {
    const double counts[] = {1, 2, 1, double(group.rank())};  // rank 1 sends 2 to itself, and expects 1
    expect_error("elements to rank", [&] {
      group.agree(stream, Collective::kAllToAll, DType::k_float32, 3, -1, {counts, 4}, {});
      group.barrier(stream);
    });
  });
  on_ranks(transport, 2, [](Group& group, Stream& stream) {
    std::vector<float> x(size_t(group.rank()) + 1);
    const View v = view_of(x);
    expect_error("2 elements", [&] {
      group.agree(stream, {{v, 1 - group.rank(), group.rank() == 0}});
      group.barrier(stream);
    });
  });
}

// Runs each rank on a thread with a stream of its own.
template <class F>
void in_parallel(int ranks, const F& f) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++) {
    threads.emplace_back([&, r] {
      Stream stream("test");
      f(size_t(r), stream);
    });
  }
  for (std::thread& t : threads) t.join();
}

// A call as JavaScript makes it, with an entry of the recorder.
template <class F>
void call(Group& group, Stream& stream, Collective what, const F& f) {
  Signature s{};
  s.call = what;
  std::strcpy(s.where, ("at " + group.name() + ".ts:1:2").c_str());
  group.enter(stream, group.info().recorder->enqueued(group.name(), s), 0);
  struct Exit {
    Group& group;
    ~Exit() { group.exit(false); }
  } exit{group};
  f();
}

void barrier_in(Group& group, Stream& stream) {
  call(group, stream, Collective::kBarrier, [&] { group.barrier(stream); });
}

int64_t milliseconds_since(int64_t start) { return (now_ns() - start) / 1'000'000; }

void test_orders(Transport transport) {
  const Groups world = world_of(transport, 4);
  constexpr const char* kAdvice = "the ranks wait for each other: call the groups in the same order on all ranks: ";
  {  // two ranks, two groups, and a member of both that is no party to it
    const Groups a = part_of(transport, world, "a", {0, 1, 2}), b = part_of(transport, world, "b", {0, 1, 3});
    const int64_t start = now_ns();
    in_parallel(4, [&](size_t r, Stream& stream) {
      const bool in_a = r == 0 || r == 2;
      const std::string own = std::string("world rank ") + char('0' + r) + " waits in barrier #1 of process group " +
                              (in_a ? "a at a.ts:1:2" : "b at b.ts:1:2") + " for world rank " + (in_a ? '1' : '0');
      expect_error(r < 2 ? own.c_str() : kAdvice, [&] { barrier_in(in_a ? *a[r] : *b[r], stream); });
    });
    expect(milliseconds_since(start) < 3000, "an order is found wrong soon");
  }
  {  // around three ranks
    const Groups a = part_of(transport, world, "a", {0, 1}), b = part_of(transport, world, "b", {1, 2}),
                 c = part_of(transport, world, "c", {2, 0});
    in_parallel(3, [&](size_t r, Stream& stream) {
      const Groups& mine = r == 0 ? a : r == 1 ? b : c;
      expect_error(kAdvice, [&] { barrier_in(*mine[r], stream); });
    });
  }
  {  // a message against a collective; the world takes part
    const Groups a = part_of(transport, world, "a", {0, 1});
    in_parallel(4, [&](size_t r, Stream& stream) {
      if (r != 0) return expect_error(kAdvice, [&] { barrier_in(*world[r], stream); });
      std::vector<float> x(1);
      const View v = view_of(x);
      expect_error(kAdvice, [&] {
        call(*a[0], stream, Collective::kReceive, [&] { a[0]->exchange(stream, {{v, 1, false}}); });
      });
    });
  }
}

// Ranks that wait long in one group for a rank that waits long in another one, and come through.
void test_patience(Transport transport) {
  const Groups world = world_of(transport, 3);
  const Groups a = part_of(transport, world, "a", {0, 1}), b = part_of(transport, world, "b", {1, 2});
  const auto nap = [] { std::this_thread::sleep_for(std::chrono::milliseconds(900)); };
  in_parallel(3, [&](size_t r, Stream& stream) {
    std::vector<float> x(10'000);
    View v = view_of(x);
    if (r == 0) {
      barrier_in(*a[0], stream);
      call(*a[0], stream, Collective::kSend, [&] { a[0]->exchange(stream, {{v, 1, true}}); });
    } else if (r == 1) {
      barrier_in(*b[1], stream);
      barrier_in(*a[1], stream);
      nap();
      call(*a[1], stream, Collective::kReceive, [&] { a[1]->exchange(stream, {{v, 0, false}}); });
      barrier_in(*b[1], stream);
    } else {
      nap();
      barrier_in(*b[2], stream);
      barrier_in(*b[2], stream);
    }
    barrier_in(*world[r], stream);
  });
}

}  // namespace

void test_comm() {
  for (const Transport transport : {over_tcp, over_shared_memory}) {
    for (int ranks = 1; ranks <= 4; ranks++) {
      test_collectives(transport, ranks);
      test_agreement(transport, ranks);
    }
    test_faults(transport);
    test_orders(transport);
    test_patience(transport);
  }
}
