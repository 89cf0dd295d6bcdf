// The backward kernel and its launch.

#include "cuda_launch.h"
#include "cuda_run.h"

namespace fastlif::gpu {

template <class T>
__global__ void __launch_bounds__(threads<T>(), T::kLean ? 1 : 4)
    backward_kernel(const __grid_constant__ Launch<Backward, typename T::F> l) {
  constexpr int kThreads = threads<T>();
  __shared__ __align__(16) char shared[scratch_bytes<T>()];
  const ScratchOf<T> scratch(shared, threadIdx.x, kThreads);
  reverse<T>(l, (int64_t(blockIdx.x) * kThreads + threadIdx.x) * T::P, scratch);
}

cudaError_t run(const Backward& p, Type x, Type spikes, cudaStream_t stream) {
  return with_types(p, x, spikes, [&]<class T>() {
    const int64_t grid = blocks(p.neurons, T::P, threads<T>());
    const auto kernel = backward_kernel<T>;
    if constexpr (T::kKept == Kept::input) {  // as many blocks an SM as shared memory holds
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
      if (error != cudaSuccess) return error;
    }
    kernel<<<unsigned(grid), threads<T>(), 0, stream>>>(launch_of<T>(p));
    return cudaGetLastError();
  });
}

}  // namespace fastlif::gpu
