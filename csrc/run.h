// What module.cpp calls to run a problem, on a CPU or a GPU.
#pragma once

#include "state.h"

namespace fastlif {

enum class Type { float64, float32, bfloat16, float16 };

void cpu_run(const Forward& problem, Type x, Type spikes);
void cpu_run(const Backward& problem, Type x, Type spikes);

// What cpu_run's vectors are made of: "avx512", "avx2" or "plain".
const char* cpu_instruction_set();

// On torch's current stream of `device`.
void cuda_run(const Forward& problem, Type x, Type spikes, int device);
void cuda_run(const Backward& problem, Type x, Type spikes, int device);

}  // namespace fastlif
