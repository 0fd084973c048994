# The CUDA backend in its two forms. With nvcc it is part of the addon (CUDA's runtime linked statically, so that the
# addon loads where there is no driver; cuBLASLt and NCCL are looked for at run time). Under emulation the same sources
# are compiled as C++ and run on the CPU: see csrc/cuda/emulation.
set(SHARDGRAD_CUDA "AUTO" CACHE STRING "build the CUDA backend: ON, OFF or AUTO (where nvcc is found)")
# For which GPUs: machine code runs on later GPUs of the same generation (80 on 86 and 89, 100 on 103, 120 on 121; of 90a
# there is no later one), PTX on all later generations. `release` covers everything from compute capability 8.0 on.
set(architectures "$ENV{SHARDGRAD_CUDA_ARCHITECTURES}")
if(NOT architectures)
  set(architectures 90a-real)
endif()
set(SHARDGRAD_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "what nvcc compiles for: release, or CMake's notation")
set(SHARDGRAD_CUDA_OBJECTS without_cuda)

file(GLOB cuda_host CONFIGURE_DEPENDS csrc/cuda/*.cc)
list(FILTER cuda_host EXCLUDE REGEX "absent\\.cc$")
file(GLOB cuda_kernels CONFIGURE_DEPENDS csrc/cuda/*.cu)

include(CheckLanguage)
if(NOT SHARDGRAD_CUDA STREQUAL "OFF")
  string(REGEX REPLACE "^release$" "80;90a-real;100-real;120-real" CMAKE_CUDA_ARCHITECTURES "${SHARDGRAD_CUDA_ARCHITECTURES}")
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND SHARDGRAD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHARDGRAD_CUDA is ON, but nvcc was not found")
  endif()
endif()
if(NOT CMAKE_CUDA_COMPILER OR NOT cuda_kernels)
  message(STATUS "CUDA: no, nvcc was not found or was not wanted")
  return()
endif()

enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older than this nvcc, CMake does not know what it can do
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)
if(NOT SHARDGRAD_SANITIZE)
  add_objects(cuda ${cuda_host} ${cuda_kernels})
  set_target_properties(cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size;-Werror=all-warnings;--expt-relaxed-constexpr;--extended-lambda>)
  find_program(SHARDGRAD_NODE node)
  if(SHARDGRAD_NODE AND EXISTS ${PROJECT_SOURCE_DIR}/scripts/cuda-resources)  # keeps what ptxas says of registers and spills
    set_target_properties(cuda PROPERTIES CUDA_COMPILER_LAUNCHER
      "${SHARDGRAD_NODE};${PROJECT_SOURCE_DIR}/scripts/cuda-resources;compile")
  endif()
  set(SHARDGRAD_CUDA_OBJECTS cuda CUDA::cudart_static)
endif()

if(EXISTS ${PROJECT_SOURCE_DIR}/test/native/emulation/CMakeLists.txt)  # a checkout, and not an installed package
  add_subdirectory(csrc/cuda/emulation)
  add_subdirectory(csrc/cuda/emulation/libraries)
  add_subdirectory(cmake/emulated EXCLUDE_FROM_ALL)
  add_subdirectory(test/native/hardware)
endif()
