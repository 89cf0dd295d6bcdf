// The forward kernel and its launch.

#include "cuda_launch.h"
#include "cuda_run.h"

namespace fastlif::gpu {

template <class T>
__global__ void __launch_bounds__(kBlock) forward_kernel(const __grid_constant__ Launch<Forward, typename T::F> l) {
  T::forward(l, (int64_t(blockIdx.x) * kBlock + threadIdx.x) * T::P);
}

cudaError_t run(const Forward& p, Type x, Type spikes, cudaStream_t stream) {
  return with_types(p, x, spikes, [&]<class T>() {
    const int64_t grid = blocks(p.neurons, T::P, kBlock);
    forward_kernel<T><<<unsigned(grid), kBlock, 0, stream>>>(launch_of<T>(p));
    return cudaGetLastError();
  });
}

}  // namespace fastlif::gpu
