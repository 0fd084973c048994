# Makes the addon independent of the system that it is built on. It shows nothing but its entry points, so that the C++ library
# inside it never meets the one of Node; and it asks for no newer glibc than Node does (2.28; see csrc/glibc). The three
# libraries are named because functions that live in libc since 2.34 are found in them before.
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" OR SHARDGRAD_SANITIZE)
  return()
endif()
set(exports ${PROJECT_SOURCE_DIR}/csrc/napi/exports.map)
target_link_options(shardgrad PRIVATE -Wl,--version-script=${exports})
set_property(TARGET shardgrad APPEND PROPERTY LINK_DEPENDS ${exports})

include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#include <features.h>
  #if !defined(__x86_64__) || !defined(__GLIBC__) || !__GLIBC_PREREQ(2, 34)
  #error not a glibc whose symbols moved
  #endif
  int main() {}" SHARDGRAD_NEW_GLIBC)
if(SHARDGRAD_NEW_GLIBC)
  add_objects(glibc csrc/glibc/old_versions.cc csrc/glibc/replacements.cc)
  target_link_libraries(shardgrad PRIVATE glibc)
  target_link_options(shardgrad PRIVATE -Wl,--push-state,--no-as-needed -l:libpthread.so.0 -l:libdl.so.2 -l:librt.so.1 -Wl,--pop-state)
endif()
