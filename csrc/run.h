// What module.cpp calls to run a problem, on a CPU or a GPU.
#pragma once

#include "state.h"

namespace fastlif {

// Numbered as DTYPES in fastlif/ops/native.py.
enum class Type { float64, float32, bfloat16, float16 };

void cpu_run(const Forward& problem, Type x, Type spikes);
void cpu_run(const Backward& problem, Type x, Type spikes);

// The sums over each of `channels` (neuron n is of channel n / inner % channels) of rows [count, neurons], `stride`
// elements apart, and of squares if they are asked for; [channels] each. The same for any number of threads.
struct ChannelSums {
  const void* rows;
  int64_t count, stride, neurons, inner, channels;
  double *sums, *squares;  // squares: or null
};
void cpu_channel_sums(const ChannelSums& problem, Type type);

// The gradient of what batch norm normalized in place of dL/dx, in p.gx.
void cpu_finish(const Backward& p, Type x);

// What cpu_run's vectors are made of: "avx512", "avx2" or "plain".
const char* cpu_instruction_set();

// On torch's current stream of `device`.
void cuda_run(const Forward& problem, Type x, Type spikes, int device);
void cuda_run(const Backward& problem, Type x, Type spikes, int device);

}  // namespace fastlif
