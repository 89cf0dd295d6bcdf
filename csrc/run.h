// What module.cpp calls to run a problem, on a CPU or a GPU.
#pragma once

#include "state.h"

namespace fastlif {

// Numbered as DTYPES in fastlif/ops/native.py.
enum class Type { float64, float32, bfloat16, float16 };

void cpu_run(const Forward& problem, Type x, Type spikes);
void cpu_run(const Backward& problem, Type x, Type spikes);

// The gradient of what batch norm normalized in place of dL/dx, in p.gx.
void cpu_finish(const Backward& p, Type x);

// What cpu_run's vectors are made of: "avx512", "avx2" or "plain".
const char* cpu_instruction_set();

// On torch's current stream of `device`.
void cuda_run(const Forward& problem, Type x, Type spikes, int device);
void cuda_run(const Backward& problem, Type x, Type spikes, int device);

}  // namespace fastlif
