#include "nccl_segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace sg::emulated_nccl {

static constexpr char kPrefix[] = "shardgrad-nccl-";

Segment* open_segment(const std::string& name) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return nullptr;
  void* p = MAP_FAILED;
  if (ftruncate(file, sizeof(Segment)) == 0) {
    p = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  return p == MAP_FAILED ? nullptr : static_cast<Segment*>(p);
}

void close_segment(Segment* segment) { munmap(segment, sizeof(Segment)); }
void remove_name(const std::string& name) { shm_unlink(name.c_str()); }

static void remove_stale() {
  DIR* const folder = opendir("/dev/shm");
  if (!folder) return;
  while (const dirent* entry = readdir(folder)) {
    if (std::strncmp(entry->d_name, kPrefix, sizeof kPrefix - 1) != 0) continue;
    const int process = std::atoi(entry->d_name + sizeof kPrefix - 1);
    if (process > 0 && kill(process, 0) != 0 && errno == ESRCH) remove_name(std::string("/") + entry->d_name);
  }
  closedir(folder);
}

std::string new_name() {
  remove_stale();
  std::random_device random;
  char name[64];
  std::snprintf(name, sizeof name, "/%s%d-%08x%08x", kPrefix, int(getpid()), random(), random());
  return name;
}

}  // namespace sg::emulated_nccl
