// Finding NCCL, and telling what its errors may come from: it says "unhandled system error" where an interface is named
// that does not exist, or /dev/shm is full.
#include "nccl.h"

#include <ifaddrs.h>
#include <sys/statvfs.h>

#include <cstdlib>
#include <set>
#include <sstream>

#include "../core/error.h"
#include "gpu_info.h"

namespace sg::nccl {

namespace {

// NCCL maps some ten megabytes a channel and peer.
constexpr size_t kRoomInSharedMemory = size_t(64) << 20;

std::string names(const std::set<std::string>& all) {
  std::string text;
  for (const std::string& name : all) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// NCCL_SOCKET_IFNAME: prefixes of names; ^ means all but these, = that the whole name is given.
std::string look_at_interfaces() {
  const char* const given = std::getenv("NCCL_SOCKET_IFNAME");
  if (!given || !*given || *given == '^') return "";
  std::set<std::string> present;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) == 0) {
    for (const ifaddrs* i = all; i; i = i->ifa_next) present.insert(i->ifa_name);
    freeifaddrs(all);
  }
  const bool whole = *given == '=';
  std::istringstream list(given + (whole ? 1 : 0));
  for (std::string wanted; std::getline(list, wanted, ',');) {
    wanted = wanted.substr(0, wanted.find(':'));  // a port may follow
    for (const std::string& name : present) {
      if (whole ? name == wanted : name.starts_with(wanted)) return "";
    }
  }
  return std::string("NCCL_SOCKET_IFNAME is ") + given + ", and this machine has " + names(present);
}

std::string look_at_shared_memory() {
  struct statvfs room;
  if (statvfs("/dev/shm", &room) != 0) return "there is no /dev/shm";
  const size_t left = size_t(room.f_bavail) * room.f_frsize;
  if (left >= kRoomInSharedMemory) return "";
  return "/dev/shm has " + std::to_string(left >> 20) + " MiB left (containers: --shm-size, --ipc=host)";
}

}  // namespace

Api::Api()
    : library({"NCCL",
               "SHARDGRAD_NCCL",
               {"libnccl.so.2"},
               {"nvidia/nccl/lib"},
               "install NVIDIA's NCCL (a Python wheel has it, too), or name the file in SHARDGRAD_NCCL"}) {
  if (!library.found()) {
    problem = library.problem();
    return;
  }
  Result (*get_version)(int*) = nullptr;
  library.bind(get_version, "ncclGetVersion");
  if (!get_version || get_version(&version) != kSuccess || version < kOldest) {
    problem = library.path() + " is NCCL " + version_text(version) + "; 2.18 or newer is needed";
    return;
  }
#define SG_ROW(member, symbol, since, ...)             \
  if (version >= since) library.bind(member, #symbol); \
  if (version >= since && since == kOldest && !member) problem = library.path() + " has no " #symbol;
  SG_NCCL(SG_ROW)
#undef SG_ROW
}

const Api& find() {
  static const auto* const found = new Api;
  return *found;
}

const Api& api() {
  const Api& found = find();
  if (!found.problem.empty()) fail(ErrorCode::Distributed, found.problem);
  return found;
}

std::string version_text(int v) {
  // until 2.8, a digit less
  const int major = v < 10000 ? v / 1000 : v / 10000, minor = v < 10000 ? v / 100 % 10 : v / 100 % 100;
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(v % 100);
}

std::string explain(const char* what, Result result, Comm comm) {
  const Api& library = api();
  std::string text = std::string(what) + ": " + library.get_error_string(result);
  const char* const last = library.get_last_error(comm);
  if (last && *last) text += std::string(": ") + last;
  text += " (NCCL " + version_text(library.version);
  if (const int driver = gpus().driver; driver > 0) {
    text += ", driver for CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
  }
  for (const std::string& found : {look_at_interfaces(), look_at_shared_memory()}) {
    if (!found.empty()) text += "; " + found;
  }
  return text + "; NCCL_DEBUG=INFO tells more)";
}

}  // namespace sg::nccl
