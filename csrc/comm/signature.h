// What a rank calls, as the other ranks see it: compared before a byte of a collective is used, shown in errors, kept
// by the flight recorder. Plain bytes, the same in shared memory and on a wire between equal machines.
#pragma once
#include <cstdint>
#include <string>

#include "../core/dtype.h"
#include "../core/view.h"

namespace sg {

// Values cross the boundary.
enum class RankReduce : int32_t { kSum, kAvg, kMin, kMax, kProduct, kPremulSum, kCount };

// How every rank's contribution counts: x[r] * factor for premul-sum, and the result divided by the size for avg.
struct Reduction {
  RankReduce op = RankReduce::kSum;
  double factor = 1;
};

enum class Collective : int32_t {
  kNone,
  kAllReduce,
  kReduce,
  kBroadcast,
  kAllGather,
  kGather,
  kScatter,
  kReduceScatter,
  kAllToAll,
  kSend,
  kReceive,
  kExchange,
  kBarrier,
  kStartNccl,
  kSplitNccl,
  kCount
};
const char* collective_name(Collective call);

struct Signature {
  uint64_t sequence;
  Collective call;
  DType dtype;
  RankReduce reduce;
  int32_t root;          // or the peer; -1: none
  int64_t count;         // of an all-to-all: what this rank sends
  uint64_t counts_hash;  // of the counts per rank
  double factor;
  char where[104];  // the caller's line ("at train.ts:12:5") or what is moved ("of gradient bucket 3"); may be empty
};

// Places by number, so that JavaScript sends a text only once. From any thread.
int number_of_place(const std::string& text);
void write_place(int number, Signature& s);

uint64_t hash_counts(Rest counts);
bool sound(Signature& s);  // as it can be shown, whoever wrote it; ends the text
// The factor may differ: each rank scales its own contribution.
bool agree(const Signature& a, const Signature& b);
std::string show(const Signature& s);   // allReduce(float32, 10 elements, sum)
std::string place(const Signature& s);  // with a blank before it, or empty
// allReduce(float32, 10 elements, sum) #3 of process group world at train.ts:12:5
std::string show_call(const Signature& s, const std::string& group);

}  // namespace sg
