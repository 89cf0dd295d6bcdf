// Spikes into planes of bits and back on a GPU: a thread for P of them, which 8 / P threads put into a byte together.

#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include "cuda_memory.h"
#include "cuda_stream.h"
#include "planes.h"

namespace fastlif::gpu {

constexpr int kThreads = 256;

// The row of a thread's numbers and the first of them; rows are padded to whole bytes.
template <int P, class U>
__device__ __forceinline__ int64_t place(const Plane<U>& p, int64_t& first) {
  const int64_t per_row = (p.neurons + 7) / 8 * (8 / P), i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = quotient(i, per_row);
  first = (i - row * per_row) * P;
  return row;
}

template <class U, int P>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ Plane<U> p) {
  int64_t first;
  const int64_t row = place<P>(p, first);
  unsigned bits = 0;
  if (row < p.rows && first < p.neurons) {
    const auto values = load<Numbers<U, P>>(p.values + row * p.values_stride + first);
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) bits |= unsigned(U(values.at[k] << 1) != 0) << k;  // -0 is 0
  }
  bits = in_byte<P>(bits, first);
  if (row < p.rows) store_byte<P>(p.bits + row * p.bits_stride + first / 8, bits, first);
}

template <class U, int P>
__global__ void __launch_bounds__(kThreads) unpack_kernel(const __grid_constant__ Plane<U> p) {
  int64_t first;
  const int64_t row = place<P>(p, first);
  if (row >= p.rows || first >= p.neurons) return;
  const unsigned bits = look_up<uint8_t>(p.bits + row * p.bits_stride + first / 8) >> first % 8;
  Numbers<U, P> values;
  FASTLIF_UNROLL
  for (int k = 0; k < P; ++k) values.at[k] = bits >> k & 1 ? p.one : U(0);
  using Word = Access<Numbers<U, P>>;  // stored by name: the compiler takes a plain store apart
  __stwb(reinterpret_cast<Word*>(p.values + row * p.values_stride + first), reinterpret_cast<const Word&>(values));
}

template <class U, int P>
void launch(const Plane<U>& p, bool packs, int device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  const int64_t blocks = (p.rows * ((p.neurons + 7) / 8 * (8 / P)) + kThreads - 1) / kThreads;
  if (packs) pack_kernel<U, P><<<unsigned(blocks), kThreads, 0, stream>>>(p);
  else unpack_kernel<U, P><<<unsigned(blocks), kThreads, 0, stream>>>(p);
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "fastlif: the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

template <class U>
void launch(const Plane<U>& p, bool packs, int device) {
  constexpr int kPack = 16 / sizeof(U);
  const uintptr_t steps = reinterpret_cast<uintptr_t>(p.values) | uintptr_t(p.values_stride) * sizeof(U);
  if (p.neurons % 8 == 0 && steps % 16 == 0) return launch<U, kPack>(p, packs, device);
  launch<U, 1>(p, packs, device);
}

}  // namespace fastlif::gpu

namespace fastlif {

template <class U>
void cuda_pack(const Plane<U>& p, int device) {
  gpu::launch(p, true, device);
}

template <class U>
void cuda_unpack(const Plane<U>& p, int device) {
  gpu::launch(p, false, device);
}

template void cuda_pack(const Plane<uint16_t>&, int);
template void cuda_pack(const Plane<uint32_t>&, int);
template void cuda_pack(const Plane<uint64_t>&, int);
template void cuda_unpack(const Plane<uint16_t>&, int);
template void cuda_unpack(const Plane<uint32_t>&, int);
template void cuda_unpack(const Plane<uint64_t>&, int);

}  // namespace fastlif
