#include "cpu_device.h"
namespace sg {
__attribute__((weak)) void CpuDevice::sgdStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "sgdStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::adamStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "adamStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::adagradStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "adagradStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::rmspropStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "rmspropStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::lambStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "lambStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::lionStep(In, double, Rest, Ins) { fail(ErrorCode::Internal, "lionStep: kernel missing"); }
__attribute__((weak)) void CpuDevice::globalNorm(Out, double, Ins) { fail(ErrorCode::Internal, "globalNorm: kernel missing"); }
__attribute__((weak)) void CpuDevice::scaleMany(In, Ins) { fail(ErrorCode::Internal, "scaleMany: kernel missing"); }
__attribute__((weak)) void CpuDevice::clampMany(double, double, Ins) { fail(ErrorCode::Internal, "clampMany: kernel missing"); }
}
