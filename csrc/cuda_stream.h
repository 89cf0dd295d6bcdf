// torch's current stream, as kernels take it.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/Exception.h>

namespace fastlif {

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;  // the macro that checks this call has another name in torch 2.11
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == 0,
                  "fastlif: torch has no current stream on CUDA device ", device);
  return static_cast<cudaStream_t>(stream);
}

}  // namespace fastlif
