// All-reduce without copies: each rank reduces its part straight from every rank's tensor and writes the result into
// all of them. That takes tensors in memory that the others can map: `share` makes it, and signatures say where it is.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "rank_reduce.h"
#include "shm_group.h"

namespace sg {

char* ShmGroup::share(size_t bytes, std::shared_ptr<void>& owner) {
  auto made = std::make_shared<SharedSegment>(SharedSegment::create_anonymous(std::max<size_t>(bytes, 1)));
  std::lock_guard lock(shared_mutex_);
  std::erase_if(shared_, [](const auto& entry) { return entry.second.expired(); });
  shared_.emplace(next_shared_++, made);
  owner = made;
  return made->data();
}

void ShmGroup::say_where(const void* data) {
  SharedPlace& mine = shared_place(rank());
  const char* const at = static_cast<const char*>(data);
  std::lock_guard lock(shared_mutex_);
  mine.oldest = next_shared_;
  for (const auto& [number, segment] : shared_) {
    const auto s = segment.lock();
    if (s) mine.oldest = std::min(mine.oldest, number);
    if (!s || at < s->data() || at >= s->data() + s->size()) continue;
    mine.number = number;
    mine.process = int32_t(getpid());
    mine.file = int32_t(s->file());
    mine.offset = uint64_t(at - s->data());
  }
}

bool ShmGroup::find_shared(Stream& stream, std::vector<char*>& parts) {
  bool everywhere = true, fresh = false;
  // All ranks forget the same: a block that its owner has freed would stay in memory for as long as we map it.
  std::erase_if(mapped_,
                [&](const auto& entry) { return entry.first.second < shared_place(entry.first.first).oldest; });
  for (int r = 0; r < size(); r++) everywhere &= shared_place(r).number != 0;
  if (!everywhere) return false;
  for (int r = 0; r < size(); r++) {
    const SharedPlace& s = shared_place(r);
    // Our own numbers are entered, too: every rank must find the same ones new, or they would count different rounds.
    auto [entry, added] = mapped_.try_emplace({r, s.number});
    if (!added) continue;
    fresh = true;
    if (r == rank()) continue;
    try {
      entry->second = std::make_unique<SharedSegment>(SharedSegment::open_of(s.process, s.file));
    } catch (const Error&) {
      // other containers, for example: copying works there, too
    }
  }
  // Each rank knows what it could map; a new block needs one round to know it of all.
  bool mine = true;
  for (int r = 0; r < size(); r++) {
    const SharedPlace& s = shared_place(r);
    if (r != rank()) mine &= mapped_[{r, s.number}] != nullptr;
  }
  if (fresh) {
    *slot(rank()) = mine;
    round(stream);
    for (int r = 0; r < size(); r++) mine &= *slot(r) != 0;
    round_++;
    if (!mine) {
      for (int r = 0; r < size(); r++) {
        if (r != rank()) mapped_[{r, shared_place(r).number}] = nullptr;
      }
    }
  }
  if (!mine) return false;
  for (int r = 0; r < size(); r++) {
    const SharedPlace& s = shared_place(r);
    char* base = nullptr;
    if (r != rank()) {
      base = mapped_[{r, s.number}]->data();
    } else {
      std::lock_guard lock(shared_mutex_);
      base = shared_[s.number].lock()->data();
    }
    parts.push_back(base + s.offset);
  }
  return true;
}

void ShmGroup::all_reduce_shared(const View& x, Reduction r, const std::vector<char*>& parts) {
  constexpr int64_t kBlockBytes = 32 << 10, kLine = 64;
  const int64_t each = int64_t(dtype_size(x.dtype)), n = x.numel(), lines = kLine / each;
  const int64_t share = (n / size() / lines + 1) * lines;
  const int64_t end = std::min(n, (rank() + 1) * share);
  std::vector<void*> blocks(parts.size());
  std::vector<double> factors;
  for (int p = 0; p < size(); p++) factors.push_back(signature_of(p).factor);
  for (int64_t at = std::min(n, rank() * share); at < end; at += kBlockBytes / each) {
    for (size_t p = 0; p < parts.size(); p++) blocks[p] = parts[p] + at * each;
    reduce_parts(x.dtype, r.op, blocks.data(), factors.data(), size(), blocks.data(), size(),
                 std::min(end - at, kBlockBytes / each));
  }
}

}  // namespace sg
