// Group: the ranks that communicate, seen from one of them. The methods run in order on a stream's thread; every rank
// of the group calls the same ones in the same order. Tensors are contiguous and were checked to lie inside their
// storages; what the ranks disagree on is found out here and thrown as a DistributedError that names both sides.
//
// Sums run in rank order 0, 1, ... N-1, in float32 for the 16-bit and 8-bit floats and otherwise in the type itself, on
// every transport and for every size: results are equal bit for bit from run to run and on every rank.
#pragma once
#include <memory>
#include <string>

#include "../core/stream.h"
#include "../core/view.h"

namespace sg {

// Values cross the boundary.
enum class RankReduce : int { kSum, kAvg, kMin, kMax, kProduct, kPremulSum, kCount };

// How every rank's contribution counts: x[r] * factor for premul-sum, and the result divided by the size for avg.
struct Reduction {
  RankReduce op = RankReduce::kSum;
  double factor = 1;
};

class Group {
 public:
  Group(std::string name, int rank, int size) : name_(std::move(name)), rank_(rank), size_(size) {}
  virtual ~Group() = default;
  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

  virtual void all_reduce(Stream&, View& x, Reduction r) = 0;
  virtual void reduce(Stream&, View& x, Reduction r, int root) = 0;  // x of other ranks stays
  virtual void broadcast(Stream&, View& x, int root) = 0;
  // `counts` are elements per rank; y holds them one after another
  virtual void all_gather(Stream&, const View& x, View& y, Rest counts) = 0;
  virtual void gather(Stream&, const View& x, View* y, Rest counts, int root) = 0;  // y on the root alone
  virtual void scatter(Stream&, const View* x, View& y, Rest counts, int root) = 0;
  virtual void reduce_scatter(Stream&, const View& x, View& y, Rest counts, Reduction r) = 0;
  // counts: what goes to each rank, then what comes from each
  virtual void all_to_all(Stream&, const View& x, View& y, Rest counts) = 0;
  virtual void send(Stream&, const View& x, int to) = 0;
  virtual void receive(Stream&, View& x, int from) = 0;
  virtual void barrier(Stream&) = 0;
  // From any thread: this and every other rank's waits end with an error that gives the reason.
  virtual void abort(const std::string& reason) = 0;
  // Memory in which collectives need no copy. `owner` keeps it.
  virtual char* share(size_t bytes, std::shared_ptr<void>& owner) = 0;
  // All ranks have joined: nobody has to find the group any more.
  virtual void seal() = 0;
  // This rank takes part no more; the others are told so if they still expect it.
  virtual void leave() = 0;

 private:
  const std::string name_;
  const int rank_, size_;
};

// The groups of this process by number. A command holds the number: a group that was closed meanwhile is an error.
int add_group(std::shared_ptr<Group> group);
std::shared_ptr<Group> find_group(int id);  // throws
void remove_group(int id);

}  // namespace sg
