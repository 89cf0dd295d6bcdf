// The backward kernel and its launch.

#include "cuda_launch.h"
#include "cuda_run.h"

namespace fastlif::gpu {

template <class F, class X, class S, int P, bool kLean, Kept kKept>
__global__ void __launch_bounds__((threads<F, P, kKept>())) backward_kernel(const __grid_constant__ Launch<Backward, F> l) {
  constexpr int kThreads = threads<F, P, kKept>();
  __shared__ typename Scratch<F, P>::Part parts[scratch_parts<F, P, kKept>()];
  const Scratch<F, P> scratch{parts + threadIdx.x, kThreads};
  reverse<F, X, S, P, kLean, kKept>(l, (int64_t(blockIdx.x) * kThreads + threadIdx.x) * P, scratch);
}

cudaError_t run(const Backward& p, Type x, Type spikes, cudaStream_t stream) {
  return with_types(p, x, spikes, [&]<class F, class X, class S, int P, bool kLean, Kept kKept>() {
    constexpr int kThreads = threads<F, P, kKept>();
    const int64_t grid = blocks(p.neurons, P, kThreads);
    backward_kernel<F, X, S, P, kLean, kKept><<<unsigned(grid), kThreads, 0, stream>>>(launch_of<F, X, S>(p));
    return cudaGetLastError();
  });
}

}  // namespace fastlif::gpu
