// Least significant digit first, eight bits at a time. Within a tile a key's place comes from its rank among the equal
// digits of its warp (one match a key), the counts of the warps before and the starts of the digits; tiles are laid
// together by a scan of their counts, digit by digit. Tiles leave shared memory in their new order, so that neighbours
// are written together.
#include "radix_sort.h"

#include "gpu.cuh"
#include "prefix.cuh"

namespace sg::gpu {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kDigitBits = 8, kDigits = 1 << kDigitBits;
static_assert(kThreads == kDigits, "a thread looks after a digit");

// Keys a thread holds in a pass over global memory. Keys and positions of a tile fit the shared memory of any launch.
template <class Key>
constexpr int kItems = sizeof(Key) == 4 ? 16 : 8;
template <class Key>
constexpr int kTile = kThreads * kItems<Key>;

template <class Key>
SG_DEVICE int digit_of(Key key, int shift) {
  return int((key >> shift) & Key(kDigits - 1));
}

// Where in its tile a thread's key number `item` is: the keys of a warp lie together.
template <int kCount>
SG_DEVICE int place_in_tile(int item) {
  return (warp_id() * kCount + item) * kWarpSize + lane_id();
}

template <class Key, int kCount>
struct Tile {
  Key keys[kThreads * kCount];
  uint32_t positions[kThreads * kCount];
};
struct DigitCounts {
  uint32_t of_warp[kWarps][kDigits];  // of equal digits in the warp, then: in the warps before it
  uint32_t start[kDigits];            // the place of the first key with this digit
};

// The places of a thread's keys when the tile is ordered by the digit at `shift`, equal ones as they were.
template <class Key, int kCount>
SG_DEVICE void order_by_digit(const Key (&keys)[kCount], int shift, DigitCounts& counts, uint32_t (&places)[kCount]) {
  uint32_t* const mine = counts.of_warp[warp_id()];
  for (int d = lane_id(); d < kDigits; d += kWarpSize) mine[d] = 0;
  __syncwarp();
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int digit = digit_of(keys[item], shift);
    const unsigned equal = __match_any_sync(kFullWarp, digit);
    const uint32_t before = mine[digit];
    places[item] = before + __popc(equal & ((1u << lane_id()) - 1));
    __syncwarp();
    if (lane_id() == __ffs(equal) - 1) mine[digit] = before + __popc(equal);
    __syncwarp();
  }
  __syncthreads();
  uint32_t sum = 0;
  for (int w = 0; w < kWarps; w++) {
    const uint32_t count = counts.of_warp[w][threadIdx.x];
    counts.of_warp[w][threadIdx.x] = sum;
    sum += count;
  }
  uint32_t all;
  counts.start[threadIdx.x] = block_exclusive<Sum<uint32_t>, kWarps>(sum, all);
  __syncthreads();
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int digit = digit_of(keys[item], shift);
    places[item] += counts.start[digit] + mine[digit];
  }
}

// Puts the keys of a tile and their positions into shared memory, each at its place.
template <class Key, int kCount>
SG_DEVICE void exchange(const Key (&keys)[kCount], const uint32_t (&positions)[kCount],
                        const uint32_t (&places)[kCount], Tile<Key, kCount>& tile) {
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    tile.keys[places[item]] = keys[item];
    tile.positions[places[item]] = positions[item];
  }
  __syncthreads();
}

// A row a block. What lies past its end has the greatest key and comes last, as it does from the start.
template <class Key, int kCount>
__global__ void __launch_bounds__(kThreads) sort_block_kernel(Key* rows, uint32_t* rows_positions, int n, int bits) {
  SG_SHARED(DigitCounts, counts, [1]);
  using TileOf = Tile<Key, kCount>;
  SG_SHARED(TileOf, tile, [1]);
  Key keys[kCount];
  uint32_t positions[kCount], places[kCount];
  Key* const row = rows + int64_t(blockIdx.x) * n;
  uint32_t* const row_positions = rows_positions + int64_t(blockIdx.x) * n;
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int i = place_in_tile<kCount>(item);
    keys[item] = i < n ? row[i] : Key(~Key(0));
    positions[item] = uint32_t(i);
  }
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    order_by_digit(keys, shift, counts[0], places);
    exchange(keys, positions, places, tile[0]);
#pragma unroll
    for (int item = 0; item < kCount; item++) {
      keys[item] = tile[0].keys[place_in_tile<kCount>(item)];
      positions[item] = tile[0].positions[place_in_tile<kCount>(item)];
    }
  }
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int i = place_in_tile<kCount>(item);
    if (i >= n) continue;
    row[i] = keys[item];
    row_positions[i] = positions[item];
  }
}

// ---- rows of many tiles; block b has tile b % tiles of row b / tiles

// counts[row][digit][tile]
template <class Key>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const Key* rows, int64_t n, int64_t tiles, int shift, uint32_t* counts) {
  SG_SHARED(uint32_t, found, [kDigits]);
  const int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles, start = tile * kTile<Key>;
  found[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int item = 0; item < kItems<Key>; item++) {
    const int64_t i = start + place_in_tile<kItems<Key>>(item);
    if (i < n) atomicAdd(&found[digit_of(rows[row * n + i], shift)], 1u);
  }
  __syncthreads();
  counts[(row * kDigits + threadIdx.x) * tiles + tile] = found[threadIdx.x];
}

// counts: of the tiles before this one; totals[row][digit]: of all tiles. Without `positions` the keys are where they
// came from.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    move_tiles_kernel(const Key* rows, const uint32_t* positions_of, int64_t n, int64_t tiles, int shift,
                      const uint32_t* counts, const uint32_t* totals, Key* to_rows, uint32_t* to_positions) {
  constexpr int kCount = kItems<Key>;
  SG_SHARED(DigitCounts, digits, [1]);
  using TileOf = Tile<Key, kCount>;
  SG_SHARED(TileOf, tile, [1]);
  SG_SHARED(uint32_t, shift_of, [kDigits]);  // from a place in the tile to one in the row, wrapping around
  const int64_t row = blockIdx.x / tiles, number = blockIdx.x % tiles, start = number * kTile<Key>;
  Key keys[kCount];
  uint32_t positions[kCount], places[kCount];
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int64_t i = start + place_in_tile<kCount>(item);
    keys[item] = i < n ? rows[row * n + i] : Key(~Key(0));
    positions[item] = !positions_of ? uint32_t(i) : i < n ? positions_of[row * n + i] : 0;
  }
  order_by_digit(keys, shift, digits[0], places);
  uint32_t all;
  const uint32_t of_smaller = block_exclusive<Sum<uint32_t>, kWarps>(totals[row * kDigits + threadIdx.x], all);
  shift_of[threadIdx.x] =
      of_smaller + counts[(row * kDigits + threadIdx.x) * tiles + number] - digits[0].start[threadIdx.x];
  exchange(keys, positions, places, tile[0]);
  const int in_tile = int(min(int64_t(kTile<Key>), n - start));
#pragma unroll
  for (int item = 0; item < kCount; item++) {
    const int i = item * kThreads + int(threadIdx.x);
    if (i >= in_tile) continue;
    const Key key = tile[0].keys[i];
    const int64_t to = row * n + uint32_t(uint32_t(i) + shift_of[digit_of(key, shift)]);
    to_rows[to] = key;
    to_positions[to] = tile[0].positions[i];
  }
}

}  // namespace

template <class Key>
bool RadixSort<Key>::in_blocks() const {
  return n_ <= kTile<Key>;
}

template <class Key>
RadixSort<Key>::RadixSort(Scratch& scratch, int64_t rows, int64_t n) : n_(n) {
  const size_t all = size_t(rows * n);
  for (int i = 0; i < (in_blocks() ? 1 : 2); i++) {
    keys_[i] = scratch.take<Key>(all);
    positions_[i] = scratch.take<uint32_t>(all);
  }
  if (in_blocks()) return;
  tiles_ = (n + kTile<Key> - 1) / kTile<Key>;
  counts_ = scratch.take<uint32_t>(size_t(rows * kDigits * tiles_));
  totals_ = scratch.take<uint32_t>(size_t(rows * kDigits));
}

template <class Key>
Ordered<Key> RadixSort<Key>::sort(int64_t rows, int bits, cudaStream_t stream) {
  if (in_blocks()) {
    const auto run = [&](auto kernel) {
      launch(kernel, dim3(unsigned(rows)), kThreads, 0, stream, keys_[0], positions_[0], int(n_), bits);
    };
    if (n_ <= 2 * kThreads) run(sort_block_kernel<Key, 2>);
    else if (n_ <= 8 * kThreads) run(sort_block_kernel<Key, 8>);
    else run(sort_block_kernel<Key, kItems<Key>>);
    return {keys_[0], positions_[0]};
  }
  const dim3 blocks(unsigned(rows * tiles_));
  bool from_start = true;
  Key *keys = keys_[0], *to_keys = keys_[1];
  uint32_t *positions = positions_[0], *to_positions = positions_[1];
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    launch(count_kernel<Key>, blocks, kThreads, 0, stream, keys, n_, tiles_, shift, counts_);
    scan_rows<Sum<uint32_t>>(counts_, rows * kDigits, tiles_, totals_, stream);
    launch(move_tiles_kernel<Key>, blocks, kThreads, 0, stream, keys, from_start ? nullptr : positions, n_, tiles_,
           shift, counts_, totals_, to_keys, to_positions);
    std::swap(keys, to_keys);
    std::swap(positions, to_positions);
    from_start = false;
  }
  return {keys, positions};
}

template class RadixSort<uint32_t>;
template class RadixSort<uint64_t>;

}  // namespace sg::gpu
