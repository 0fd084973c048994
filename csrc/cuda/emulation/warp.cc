// Warp functions. All are one primitive: lanes leave the address of their argument and wait; the lane that completes
// the mask computes for all of them.
#include "device.h"
#include "block.h"
#include "checker.h"

namespace sg::emulation {

unsigned lane() { return unsigned(block.current) % 32; }

static Gathering& gathering_for(Warp& warp, unsigned mask, Collective kind, const Site& site) {
  Gathering* found = nullptr;
  for (Gathering& g : warp.gatherings) {
    if (!(g.mask & mask)) continue;
    if (g.mask != mask) {
      report("warp function at %s: mask %08x meets mask %08x, with which other lanes wait at %s",
             describe(site).c_str(), mask, g.mask, describe(g.site).c_str());
      abandon_block();
    }
    // Lanes may meet in __syncwarp from different places, but not in functions that exchange values.
    if (g.kind != kind || (kind != Collective::SyncWarp && !same_place(g.site, site))) {
      report("lanes of a warp diverge: lane %u is at %s, others wait at %s (mask %08x)", lane(), describe(site).c_str(),
             describe(g.site).c_str(), mask);
      abandon_block();
    }
    found = &g;
  }
  return found ? *found : warp.gatherings.emplace_back(Gathering{mask, 0, kind, site, {}});
}

void collective(unsigned mask, Collective kind, void* lane_argument, CollectiveFn run, Site site) {
  const int w = block.current / 32;
  const unsigned self = 1u << lane();
  Warp& warp = block.warp[w];
  if (!(mask & self)) {
    report("warp function at %s: lane %u is not in its own mask %08x", describe(site).c_str(), lane(), mask);
    abandon_block();
  }
  if (mask & ~warp.alive) {
    report("warp function at %s: mask %08x names lanes %08x, which have ended or do not exist", describe(site).c_str(),
           mask, mask & ~warp.alive);
    abandon_block();
  }
  Gathering& gathering = gathering_for(warp, mask, kind, site);
  gathering.arrived |= self;
  gathering.lanes[lane()] = lane_argument;
  block.self().site = site;
  if (gathering.arrived != mask) {
    block.self().state = ThreadState::InCollective;
    wait_here();
    return;
  }
  if (run) run(gathering.lanes, mask);
  if (kind == Collective::SyncWarp) checker::warp_syncs(w);
  for (unsigned others = mask & ~self; others; others &= others - 1) make_ready(w * 32 + __builtin_ctz(others));
  if (&gathering != &warp.gatherings.back()) gathering = warp.gatherings.back();
  warp.gatherings.pop_back();
}

namespace {

struct Shuffled {
  void* value;
  unsigned bytes, source;
  unsigned char sent[16];
};
void exchange(void* const* lanes, unsigned mask) {
  for (unsigned left = mask; left; left &= left - 1) {
    auto& lane = *static_cast<Shuffled*>(lanes[__builtin_ctz(left)]);
    if (mask >> lane.source & 1) {
      __builtin_memcpy(lane.value, static_cast<Shuffled*>(lanes[lane.source])->sent, lane.bytes);
    } else {
      report("lane %d shuffles from lane %u, which is not in mask %08x, at %s", __builtin_ctz(left), lane.source, mask,
             describe(block.self().site).c_str());
      abandon_block();
    }
  }
}

struct Vote {
  unsigned predicate, result;
};
void count_votes(void* const* lanes, unsigned mask) {
  unsigned result = 0;
  for (unsigned left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    result |= static_cast<Vote*>(lanes[lane])->predicate << lane;
  }
  for (unsigned left = mask; left; left &= left - 1) static_cast<Vote*>(lanes[__builtin_ctz(left)])->result = result;
}

struct Matched {
  unsigned long long value;
  unsigned result;
};
void find_matches(void* const* lanes, unsigned mask) {
  for (unsigned left = mask; left; left &= left - 1) {
    auto& lane = *static_cast<Matched*>(lanes[__builtin_ctz(left)]);
    lane.result = 0;
    for (unsigned others = mask; others; others &= others - 1)
      if (static_cast<Matched*>(lanes[__builtin_ctz(others)])->value == lane.value) lane.result |= others & -others;
  }
}

}  // namespace

void shuffle(unsigned mask, void* value, unsigned bytes, unsigned source, Site site) {
  Shuffled lane{value, bytes, source, {}};
  __builtin_memcpy(lane.sent, value, bytes);
  collective(mask, Collective::Shuffle, &lane, exchange, site);
}
unsigned ballot(unsigned mask, int predicate, Site site) {
  Vote lane{predicate != 0, 0};
  collective(mask, Collective::Vote, &lane, count_votes, site);
  return lane.result;
}
unsigned match_any(unsigned mask, unsigned long long value, Site site) {
  Matched lane{value, 0};
  collective(mask, Collective::Match, &lane, find_matches, site);
  return lane.result;
}

}  // namespace sg::emulation
