// Sums over channels on a GPU, and what batch norm makes of them.
//
// A block is one warp, so that nobody waits. Where a channel's neurons lie in runs, it takes a part of one channel's;
// where channels lie side by side, a part of the rows of up to 32 packs of them. In float64, and in the same order
// every time.

#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include "channels.h"
#include "cuda_memory.h"
#include "cuda_stream.h"

namespace fastlif::gpu {

constexpr int kWarp = 32;
constexpr int kUnderWay = 8;  // loads of a thread

__device__ __forceinline__ double over_lanes(double sum, int from) {
  for (int distance = from; distance < kWarp; distance *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// The sums of a thread, for each of the P numbers of a pack.
template <class F, class X, int P>
struct Own {
  double sums[P]{}, squares[P]{};

  // Over `address(i)` for i = first, first + step, ... below stop.
  template <class Address>
  __device__ __forceinline__ void add(int64_t first, int64_t stop, int64_t step, const Address& address) {
    for (int64_t i = first; i < stop; i += kUnderWay * step) {
      Pack<X, P> ahead[kUnderWay];
      FASTLIF_UNROLL
      for (int k = 0; k < kUnderWay; ++k)
        if (i + k * step < stop) ahead[k] = load<Pack<X, P>>(address(i + k * step));
      FASTLIF_UNROLL
      for (int k = 0; k < kUnderWay; ++k) {
        if (i + k * step >= stop) break;
        const Numbers<F, P> x = widen<F>(ahead[k]);
        FASTLIF_UNROLL
        for (int n = 0; n < P; ++n) {
          sums[n] += double(x.at[n]);
          squares[n] += double(x.at[n]) * double(x.at[n]);
        }
      }
    }
  }
};

__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  return (a | b) >> 32 == 0 ? uint32_t(a) / uint32_t(b) : a / b;
}

// Where the numbers of run `i` begin: there are `per_row` of them in a row, `apart` elements from one to the next.
template <class X>
__device__ __forceinline__ const X* run_at(const ChannelSums& p, int64_t i, int64_t per_row, int64_t apart) {
  const X* rows = static_cast<const X*>(p.rows);
  if (p.stride == p.neurons) return rows + i * apart;
  const int64_t row = quotient(i, per_row);
  return rows + row * p.stride + (i - row * per_row) * apart;
}

template <class F, class X, int P>
__global__ void __launch_bounds__(kWarp) runs_kernel(const __grid_constant__ ChannelSums p) {
  const int64_t channel = blockIdx.x % p.channels, part = blockIdx.x / p.channels;
  const int64_t period = p.inner * p.channels, per_row = p.neurons / period, packs = p.inner / P;
  const int64_t all = p.count * per_row * packs;
  Own<F, X, P> own;
  own.add(all * part / p.parts + threadIdx.x, all * (part + 1) / p.parts, kWarp, [&](int64_t i) {
    const int64_t run = quotient(i, packs);
    return run_at<X>(p, run, per_row, period) + channel * p.inner + (i - run * packs) * P;
  });
  double sum = 0, squares = 0;
  FASTLIF_UNROLL
  for (int n = 0; n < P; ++n) sum += own.sums[n], squares += own.squares[n];
  sum = over_lanes(sum, 1);
  squares = over_lanes(squares, 1);
  if (threadIdx.x != 0) return;
  p.sums[part * p.part_stride + channel] = sum;
  if (p.squares) p.squares[part * p.part_stride + channel] = squares;
}

template <class F, class X, int P>
__global__ void __launch_bounds__(kWarp) columns_kernel(const __grid_constant__ ChannelSums p, int across) {
  const int64_t packs = p.channels / P, groups = (packs + across - 1) / across;
  const int64_t part = blockIdx.x / groups, column = blockIdx.x % groups * across + threadIdx.x % across;
  const int64_t per_row = p.neurons / p.channels, all = p.count * per_row, at_once = kWarp / across;
  Own<F, X, P> own;
  if (column < packs)
    own.add(all * part / p.parts + threadIdx.x / across, all * (part + 1) / p.parts, at_once,
            [&](int64_t i) { return run_at<X>(p, i, per_row, p.channels) + column * P; });
  FASTLIF_UNROLL
  for (int n = 0; n < P; ++n) {
    const double sum = over_lanes(own.sums[n], across), squares = over_lanes(own.squares[n], across);
    if (threadIdx.x >= across || column >= packs) continue;
    p.sums[part * p.part_stride + column * P + n] = sum;
    if (p.squares) p.squares[part * p.part_stride + column * P + n] = squares;
  }
}

template <class F, class X, int P>
void launch_sums(const ChannelSums& p, cudaStream_t stream) {
  if (p.inner != 1) {
    runs_kernel<F, X, P><<<unsigned(p.channels * p.parts), kWarp, 0, stream>>>(p);
    return;
  }
  const int64_t packs = p.channels / P;
  int across = 1;  // packs side by side, a power of two
  while (across < kWarp && across < packs) across *= 2;
  columns_kernel<F, X, P><<<unsigned((packs + across - 1) / across * p.parts), kWarp, 0, stream>>>(p, across);
}

template <class F, class X>
void launch_sums(const ChannelSums& p, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(X);
  const bool fits = (p.inner != 1 ? p.inner : p.channels) % kPack == 0 && p.stride % kPack == 0;
  if (fits && reinterpret_cast<uintptr_t>(p.rows) % 16 == 0) return launch_sums<F, X, kPack>(p, stream);
  launch_sums<F, X, 1>(p, stream);
}

template <class Body>
__global__ void __launch_bounds__(kWarp)
    channels_kernel(const __grid_constant__ Body body, const __grid_constant__ Parts p) {
  const int64_t c = blockIdx.x;
  double first = 0, second = 0;
  for (int64_t i = threadIdx.x; i < p.parts; i += kWarp) {
    first += p.sums[2 * i * p.channels + c];
    second += p.sums[(2 * i + 1) * p.channels + c];
  }
  first = over_lanes(first, 1);
  second = over_lanes(second, 1);
  if (threadIdx.x == 0) body(c, first, second);
}

}  // namespace fastlif::gpu

namespace fastlif {
namespace {

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "fastlif: the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

}  // namespace

void cuda_channel_sums(const ChannelSums& p, Type type, int device) {
  if (p.channels == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  if (type == Type::float64) gpu::launch_sums<double, double>(p, stream);
  else if (type == Type::float32) gpu::launch_sums<float, float>(p, stream);
  else if (type == Type::bfloat16) gpu::launch_sums<float, BFloat16>(p, stream);
  else gpu::launch_sums<float, Half>(p, stream);
  check_launch();
}

template <class Body>
void cuda_for_channels(const Body& body, const Parts& p, int device) {
  if (p.channels == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(device);
  gpu::channels_kernel<Body><<<unsigned(p.channels), gpu::kWarp, 0, current_stream(device)>>>(body, p);
  check_launch();
}

template void cuda_for_channels(const Statistics<float>&, const Parts&, int);
template void cuda_for_channels(const Statistics<double>&, const Parts&, int);
template void cuda_for_channels(const AffineOf<float>&, const Parts&, int);
template void cuda_for_channels(const AffineOf<double>&, const Parts&, int);
template void cuda_for_channels(const Gradients<float>&, const Parts&, int);
template void cuda_for_channels(const Gradients<double>&, const Parts&, int);

}  // namespace fastlif
