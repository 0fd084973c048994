// Libraries that are looked for at run time: cuBLASLt and NCCL. The package does not bring them (they are hundreds of
// megabytes), and machines with a GPU have them in one of a few places.
#pragma once
#include <string>
#include <vector>

namespace sg {

class Library {
 public:
  struct Names {
    const char* spoken;                // cuBLASLt
    const char* environment;           // a variable with an explicit path
    std::vector<const char*> sonames;  // newest first
    std::vector<const char*> wheels;   // folders below site-packages
    const char* remedy;
  };
  explicit Library(Names names);

  bool found() const { return handle_ != nullptr; }
  const std::string& path() const { return path_; }                 // of what was found
  const std::vector<std::string>& tried() const { return tried_; }  // "libnccl.so.2: why not"
  std::string problem() const;                                      // a sentence; not found
  // Null when this version does not have it.
  void* symbol(const char* name) const;
  template <class F>
  void bind(F& function, const char* name) const {
    function = reinterpret_cast<F>(symbol(name));
  }

 private:
  bool open(const std::string& path);
  const Names names_;
  void* handle_ = nullptr;
  std::string path_;
  std::vector<std::string> tried_;
};

}  // namespace sg
