// The forward kernel and its launch.

#include "cuda_launch.h"
#include "cuda_run.h"

namespace fastlif::gpu {

template <class F, class X, class S, int P, bool kLean, Kept kKept>
__global__ void __launch_bounds__(kBlock) forward_kernel(const __grid_constant__ Launch<Forward, F> l) {
  Thread<F, X, S, P, kLean, kKept>::forward(l, (int64_t(blockIdx.x) * kBlock + threadIdx.x) * P);
}

cudaError_t run(const Forward& p, Type x, Type spikes, cudaStream_t stream) {
  return with_types(p, x, spikes, [&]<class F, class X, class S, int P, bool kLean, Kept kKept>() {
    const int64_t grid = blocks(p.neurons, P, kBlock);
    forward_kernel<F, X, S, P, kLean, kKept><<<unsigned(grid), kBlock, 0, stream>>>(launch_of<F, X, S>(p));
    return cudaGetLastError();
  });
}

}  // namespace fastlif::gpu
