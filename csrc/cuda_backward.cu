// The backward kernel and its launch.

#include "cuda_launch.h"
#include "cuda_run.h"

namespace fastlif::gpu {

template <class F, class X, class S, int P, bool kLean, Kept kKept>
__global__ void __launch_bounds__(threads<kKept>(), kLean ? 1 : 4)
    backward_kernel(const __grid_constant__ Launch<Backward, F> l) {
  constexpr int kThreads = threads<kKept>();
  __shared__ __align__(16) char shared[scratch_bytes<F, X, S, P, kKept>()];
  const Scratch<F, X, S, P, kChunkSteps> scratch(shared, threadIdx.x, kThreads);
  reverse<F, X, S, P, kLean, kKept>(l, (int64_t(blockIdx.x) * kThreads + threadIdx.x) * P, scratch);
}

cudaError_t run(const Backward& p, Type x, Type spikes, cudaStream_t stream) {
  return with_types(p, x, spikes, [&]<class F, class X, class S, int P, bool kLean, Kept kKept>() {
    constexpr int kThreads = threads<kKept>();
    const int64_t grid = blocks(p.neurons, P, kThreads);
    const auto kernel = backward_kernel<F, X, S, P, kLean, kKept>;
    if constexpr (kKept == Kept::input) {  // as many blocks an SM as shared memory holds
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
      if (error != cudaSuccess) return error;
    }
    kernel<<<unsigned(grid), kThreads, 0, stream>>>(launch_of<F, X, S>(p));
    return cudaGetLastError();
  });
}

}  // namespace fastlif::gpu
