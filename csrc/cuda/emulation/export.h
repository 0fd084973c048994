// What the emulated runtime (a stand-in for libcudart) shows to kernels, to the code that launches them and to the
// stand-ins of libraries. Everything else of it stays hidden.
#pragma once

#define SG_EMULATION_API __attribute__((visibility("default")))
