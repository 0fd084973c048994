#include "signature.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <vector>

namespace sg {

namespace {

const char* const kNames[] = {"nothing", "allReduce", "reduce",        "broadcast", "allGather",
                              "gather",  "scatter",   "reduceScatter", "allToAll",  "send",
                              "recv",    "exchange",  "barrier",       "startNccl", "splitNccl"};
static_assert(std::size(kNames) == size_t(Collective::kCount));
const char* const kReductions[] = {"sum", "avg", "min", "max", "product", "premulSum"};
static_assert(std::size(kReductions) == size_t(RankReduce::kCount));

struct Places {
  std::mutex mutex;
  std::map<std::string, int> numbers;
  std::vector<const std::string*> texts;
};

// Never destroyed: streams may outlive static destructors.
Places& places() {
  static Places* all = new Places;
  return *all;
}

}  // namespace

int number_of_place(const std::string& text) {
  Places& all = places();
  std::lock_guard lock(all.mutex);
  const auto [entry, added] = all.numbers.try_emplace(text, int(all.texts.size()));
  if (added) all.texts.push_back(&entry->first);
  return entry->second;
}

void write_place(int number, Signature& s) {
  Places& all = places();
  std::lock_guard lock(all.mutex);
  if (number >= 0 && size_t(number) < all.texts.size())
    std::snprintf(s.where, sizeof s.where, "%s", all.texts[size_t(number)]->c_str());
}

const char* collective_name(Collective call) { return kNames[int(call)]; }

uint64_t hash_counts(Rest counts) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (int i = 0; i < counts.count; i++) hash = (hash ^ uint64_t(counts[i])) * 1099511628211u;
  return hash;
}

bool sound(Signature& s) {
  s.where[sizeof s.where - 1] = 0;
  return s.call >= Collective::kNone && s.call < Collective::kCount && size_t(s.dtype) < size_t(DType::kCount) &&
         s.reduce >= RankReduce::kSum && s.reduce < RankReduce::kCount;
}

bool agree(const Signature& a, const Signature& b) {
  const bool counts = a.count == b.count || a.call == Collective::kAllToAll;  // each rank sends as much as it likes
  return a.sequence == b.sequence && a.call == b.call && a.dtype == b.dtype && a.reduce == b.reduce &&
         a.root == b.root && counts && a.counts_hash == b.counts_hash;
}

std::string show(const Signature& s) {
  std::string text = collective_name(s.call);
  const bool of_one_tensor = s.call != Collective::kNone && s.call < Collective::kExchange;
  if (!of_one_tensor) return text;
  text += std::string("(") + dtype_name(s.dtype) + ", " + std::to_string(s.count) + " elements";
  if (s.call == Collective::kAllToAll) text += " sent";
  if (s.call == Collective::kAllReduce || s.call == Collective::kReduce || s.call == Collective::kReduceScatter) {
    text += std::string(", ") + kReductions[int(s.reduce)];
  }
  if (s.root < 0) return text + ")";
  const char* const role = s.call == Collective::kSend      ? ", to rank "
                           : s.call == Collective::kReceive ? ", from rank "
                                                            : ", root ";
  return text + role + std::to_string(s.root) + ")";
}

std::string place(const Signature& s) { return s.where[0] ? std::string(" ") + s.where : std::string(); }

std::string show_call(const Signature& s, const std::string& group) {
  const std::string number = s.sequence > 0 ? " #" + std::to_string(s.sequence) : std::string();
  return show(s) + number + " of process group " + group + place(s);
}

}  // namespace sg
