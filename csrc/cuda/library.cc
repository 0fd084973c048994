#include "library.h"

#include <cstdlib>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <glob.h>
#include <sys/stat.h>

namespace sg {

namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

#ifdef SG_CUDA_EMULATION
// Where CUDA's runtime lies: under emulation the stand-ins of the libraries lie beside it.
std::string folder_of_runtime() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&cudaGetDeviceCount), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/'));
}
#else
std::vector<std::string> matching(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  return paths;
}

std::vector<std::string> folders(const std::vector<const char*>& wheels) {
  std::vector<std::string> all;
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string home = variable(name); !home.empty()) all.push_back(home + "/lib64");
  }
  for (const char* prefix : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const std::string root = variable(prefix);
    if (root.empty()) continue;
    all.push_back(root + "/lib");
    for (const char* wheel : wheels) {
      for (const auto& p : matching(root + "/lib/python3*/site-packages/" + wheel)) all.push_back(p);
    }
  }
  all.push_back("/usr/local/cuda/lib64");
  const std::string home = variable("HOME");
  for (const char* wheel : wheels) {
    for (const std::string& site :
         {home + "/.local/lib/python3*/site-packages/", std::string("/usr/local/lib/python3*/dist-packages/"),
          std::string("/usr/local/lib/python3*/site-packages/"), std::string("/usr/lib/python3*/site-packages/"),
          std::string("/opt/*/lib/python3*/site-packages/")}) {
      for (const auto& p : matching(site + wheel)) all.push_back(p);
    }
  }
  return all;
}

bool exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}
#endif

}  // namespace

Library::Library(Names names) : names_(std::move(names)) {
  if (const std::string given = variable(names_.environment); !given.empty()) {
    open(given);  // and nothing else: who names a file wants that one
    return;
  }
#ifdef SG_CUDA_EMULATION
  const std::string beside = folder_of_runtime();
  for (const char* soname : names_.sonames) {
    if (open(beside + "/" + soname)) return;
  }
#else
  for (const char* soname : names_.sonames) {
    if (open(soname)) return;
  }
  for (const std::string& folder : folders(names_.wheels)) {
    for (const char* soname : names_.sonames) {
      if (exists(folder + "/" + soname) && open(folder + "/" + soname)) return;
    }
  }
#endif
}

bool Library::open(const std::string& path) {
  handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle_) {
    const char* const why = dlerror();
    tried_.push_back(why ? why : path);
    return false;
  }
  path_ = path;
  return true;
}

void* Library::symbol(const char* name) const { return handle_ ? dlsym(handle_, name) : nullptr; }

std::string Library::problem() const {
  std::string text = std::string(names_.spoken) + " was not found (tried";
  for (size_t i = 0; i < tried_.size(); i++) text += (i ? "; " : " ") + tried_[i];
  return text + "); " + names_.remedy;
}

}  // namespace sg
