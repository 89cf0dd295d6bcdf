// The CUDA backend: a problem's kernel on torch's current stream of a device.

#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include "cuda_loops.h"
#include "cuda_run.h"
#include "cuda_stream.h"

namespace fastlif {
namespace {

template <class Problem>
void launch(const Problem& p, Type x, Type spikes, int device) {
  STD_TORCH_CHECK(p.schedule.steps <= gpu::kMostSteps && p.neurons <= gpu::kMostNeurons,
                  "fastlif: the CUDA kernels take ", gpu::kMostSteps, " steps of ", gpu::kMostNeurons,
                  " neurons at most, got ", p.schedule.steps, " of ", p.neurons);
  STD_TORCH_CHECK(!p.scale.data || p.options.keep == Keep::input || p.options.keep == Keep::nothing,
                  "fastlif: with batch norm the CUDA kernels keep the input, or nothing");
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaError_t error = gpu::run(p, x, spikes, current_stream(device));
  STD_TORCH_CHECK(
      error == cudaSuccess, "fastlif: the CUDA kernel could not be launched: ", cudaGetErrorString(error),
      error == cudaErrorNoKernelImageForDevice ? "; reinstall with FASTLIF_CUDA_ARCHS naming this device's" : "");
}

}  // namespace

void cuda_run(const Forward& p, Type x, Type spikes, int device) { launch(p, x, spikes, device); }
void cuda_run(const Backward& p, Type x, Type spikes, int device) { launch(p, x, spikes, device); }

}  // namespace fastlif
