// Spikes into planes of bits and back on a GPU: a pack of 16 bytes a thread, or one number where rows do not lie so.

#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include "cuda_memory.h"
#include "cuda_stream.h"
#include "planes.h"

namespace fastlif {
namespace gpu {
namespace {

constexpr int kThreads = 256;

// A thread's row and its first neuron there; `blocks` of them are a row.
template <int P>
struct Place {
  int64_t row, first;

  __device__ __forceinline__ explicit Place(unsigned blocks)
      : row(blockIdx.x / blocks), first((int64_t(blockIdx.x % blocks) * kThreads + threadIdx.x) * P) {}
};

template <class U, int P>
__device__ __forceinline__ bool is_spike(const Pack<U, P>& from, int k) {  // -0 is none
  if constexpr (sizeof(U) == 8) return from.words[2 * k] != 0 || from.words[2 * k + 1] << 1 != 0;
  else if constexpr (from.kPerWord == 2) return (from.words[k / 2] >> k % 2 * 16 & 0x7fffu) != 0;
  else return U(from.words[k] << 1) != 0;
}

template <class U, int P>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ Plane<U> p, unsigned blocks) {
  const Place<P> at(blocks);
  unsigned bits = 0;
  if (at.first < p.neurons) {
    const auto pack = load<Pack<U, P>>(p.values + at.row * p.values_stride + at.first);
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) bits |= is_spike<U, P>(pack, k) ? 1u << k : 0u;
  }
  bits = in_byte<P>(bits, at.first);
  if (at.first < p.neurons) store_byte<P>(p.bits + at.row * p.bits_stride + at.first / 8, bits, at.first);
}

// Word i of a pack of zeros and `one`s.
template <class U, int P>
__device__ __forceinline__ typename Pack<U, P>::Word word(unsigned bits, int i, U one) {
  constexpr int kPerWord = Pack<U, P>::kPerWord;
  if constexpr (sizeof(U) == 8) return bits >> i / 2 & 1 ? uint32_t(one >> i % 2 * 32) : 0u;
  else if constexpr (kPerWord == 2)
    return (bits >> 2 * i & 1 ? one : 0u) | (bits >> 2 * i & 2 ? uint32_t(one) << 16 : 0u);
  else return bits >> i & 1 ? one : 0u;
}

template <class U, int P>
__global__ void __launch_bounds__(kThreads) unpack_kernel(const __grid_constant__ Plane<U> p, unsigned blocks) {
  const Place<P> at(blocks);
  if (at.first >= p.neurons) return;
  const unsigned bits = look_up<uint8_t>(p.bits + at.row * p.bits_stride + at.first / 8) >> unsigned(at.first) % 8;
  Pack<U, P> pack;
  FASTLIF_UNROLL
  for (int i = 0; i < int(sizeof(pack.words) / sizeof(pack.words[0])); ++i) pack.words[i] = word<U, P>(bits, i, p.one);
  store_whole(p.values + at.row * p.values_stride + at.first, pack);
}

template <int P, class U>
void launch(void (*kernel)(Plane<U>, unsigned), const Plane<U>& p, int device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t blocks = (p.neurons + P * kThreads - 1) / (P * kThreads);
  kernel<<<unsigned(blocks * p.rows), kThreads, 0, current_stream(device)>>>(p, unsigned(blocks));
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "fastlif: the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

template <class U>
bool in_packs(const Plane<U>& p) {
  return p.neurons * sizeof(U) % 16 == 0 && p.values_stride * sizeof(U) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(p.values) % 16 == 0;
}

}  // namespace
}  // namespace gpu

template <class U>
void cuda_pack(const Plane<U>& p, int device) {
  constexpr int P = 16 / sizeof(U);
  if (gpu::in_packs(p)) gpu::launch<P>(gpu::pack_kernel<U, P>, p, device);
  else gpu::launch<1>(gpu::pack_kernel<U, 1>, p, device);
}

template <class U>
void cuda_unpack(const Plane<U>& p, int device) {
  constexpr int P = 16 / sizeof(U);
  if (gpu::in_packs(p)) gpu::launch<P>(gpu::unpack_kernel<U, P>, p, device);
  else gpu::launch<1>(gpu::unpack_kernel<U, 1>, p, device);
}

template void cuda_pack(const Plane<uint16_t>&, int);
template void cuda_pack(const Plane<uint32_t>&, int);
template void cuda_pack(const Plane<uint64_t>&, int);
template void cuda_unpack(const Plane<uint16_t>&, int);
template void cuda_unpack(const Plane<uint32_t>&, int);
template void cuda_unpack(const Plane<uint64_t>&, int);

}  // namespace fastlif
