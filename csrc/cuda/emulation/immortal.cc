// Nothing of the library is destroyed when the process ends: other threads may still be inside a call then, as they may
// with CUDA's own runtime. The compiler registers destructors of static objects here instead of with the C library.
extern "C" __attribute__((visibility("hidden"))) int __cxa_atexit(void (*)(void*), void*, void*) { return 0; }
