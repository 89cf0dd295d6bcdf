// What cuda.cu calls to launch a problem's kernel on a stream.
#pragma once

#include <cuda_runtime.h>

#include "run.h"

namespace fastlif::gpu {

cudaError_t run(const Forward& problem, Type x, Type spikes, cudaStream_t stream);
cudaError_t run(const Backward& problem, Type x, Type spikes, cudaStream_t stream);

}  // namespace fastlif::gpu
