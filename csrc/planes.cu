// Spikes into planes of bits and back on a GPU: a thread for each byte of the plane.

#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "cuda_stream.h"
#include "planes.h"

namespace fastlif {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 16;

template <class U>
__global__ void pack_kernel(Plane<U> p) {
  const int64_t width = (p.neurons + 7) / 8, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.rows * width; i += step) {
    const int64_t row = i / width, byte = i % width, count = min(int64_t(8), p.neurons - 8 * byte);
    const U* values = p.values + row * p.values_stride + 8 * byte;
    unsigned bits = 0;
    for (int k = 0; k < count; ++k) bits |= unsigned(U(values[k] << 1) != 0) << k;  // -0 is 0
    p.bits[row * p.bits_stride + byte] = uint8_t(bits);
  }
}

template <class U>
__global__ void unpack_kernel(Plane<U> p) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.rows * p.neurons; i += step) {
    const int64_t row = i / p.neurons, n = i % p.neurons;
    const unsigned bits = p.bits[row * p.bits_stride + n / 8];
    p.values[row * p.values_stride + n] = bits >> (n % 8) & 1 ? p.one : U(0);
  }
}

template <class U>
void launch(void (*kernel)(Plane<U>), const Plane<U>& p, int64_t count, int device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMostBlocks);
  kernel<<<unsigned(blocks), kThreads, 0, current_stream(device)>>>(p);
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "fastlif: the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

}  // namespace

template <class U>
void cuda_pack(const Plane<U>& p, int device) {
  launch(pack_kernel<U>, p, p.rows * ((p.neurons + 7) / 8), device);
}

template <class U>
void cuda_unpack(const Plane<U>& p, int device) {
  launch(unpack_kernel<U>, p, p.rows * p.neurons, device);
}

template void cuda_pack(const Plane<uint16_t>&, int);
template void cuda_pack(const Plane<uint32_t>&, int);
template void cuda_pack(const Plane<uint64_t>&, int);
template void cuda_unpack(const Plane<uint16_t>&, int);
template void cuda_unpack(const Plane<uint32_t>&, int);
template void cuda_unpack(const Plane<uint64_t>&, int);

}  // namespace fastlif
