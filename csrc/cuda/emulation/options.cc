// Reading the environment. A value that makes no sense is named and ignored: the emulator is a tool of tests, whose
// results would mislead if a typing error silently meant something else.
#include "options.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shared_memory.h"

namespace sg::emulation {

static uint64_t parse(const char* name, const char* text, uint64_t otherwise, uint64_t largest) {
  if (!text || !*text) return otherwise;
  char* end;
  const unsigned long long value = strtoull(text, &end, 10);
  if (*end || *text == '-' || value > largest) {
    fprintf(stderr, "CUDA emulation: %s=%s is not a number up to %llu and was ignored\n", name, text,
            static_cast<unsigned long long>(largest));
    return otherwise;
  }
  return value;
}

static uint64_t number(const char* name, uint64_t otherwise, uint64_t largest) {
  return parse(name, getenv(name), otherwise, largest);
}

static void choose_schedule(Options& o, const char* text) {
  if (!text || !*text || !strcmp(text, "order")) o.schedule = Schedule::InOrder;
  else if (!strcmp(text, "reverse")) o.schedule = Schedule::Reverse;
  else {
    o.schedule = Schedule::Random;
    o.seed = parse("SHARDGRAD_EMULATION_SCHEDULE", text, 1, UINT64_MAX);
  }
}

static Options read() {
  Options o{};
  choose_schedule(o, getenv("SHARDGRAD_EMULATION_SCHEDULE"));
  o.preempt = uint32_t(number("SHARDGRAD_EMULATION_PREEMPT", 0, UINT32_MAX));
  o.lazy = number("SHARDGRAD_EMULATION_LAZY", 1, 1);
  o.abort_on_report = number("SHARDGRAD_EMULATION_ABORT", 0, 1);
  o.devices = int(number("SHARDGRAD_EMULATED_GPUS", 2, 16));
  o.device_bytes = number("SHARDGRAD_EMULATED_GPU_BYTES", 4ull << 30, 16ull << 30);
  o.shared_bytes = number("SHARDGRAD_EMULATED_SHARED_BYTES", kSharedLimit, kSharedLimit);
  return o;
}

Options& options() {
  static Options o = read();
  return o;
}

static uint64_t first_state() { return options().seed * 0x9E3779B97F4A7C15u + 88172645463325252u; }
static uint64_t& generator() {
  static uint64_t state = first_state();
  return state;
}
void set_schedule(const char* text) {
  choose_schedule(options(), text);
  generator() = first_state();
}

// xorshift64
uint32_t random_number() {
  uint64_t& state = generator();
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return uint32_t(state >> 16);
}

}  // namespace sg::emulation
