// What csrc/*.cu ask of CUDA, in plain C++: their device code, compiled by a compiler for CPUs and included before all
// else. The threads of a block run as fibers, one after another from one exchange between them to the next.
//
// Stricter than a GPU: an access that is not aligned, a wait for threads that have left, and a copy that is read before
// it was waited for do not go unnoticed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// Before __CUDACC__ is defined, and with names for what the tests put in the place of torch's own.
#define aoti_torch_create_device_guard emulated_device
#define aoti_torch_delete_device_guard emulated_no_device
#define aoti_torch_get_current_cuda_stream emulated_stream
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#define __CUDACC__
#define __CUDA_ARCH__ 900
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

#define FASTLIF_TARGET on_host
#include "options.h"
#include "lanes.h"
#undef FASTLIF_TARGET

using std::min;

struct dim3 {
  unsigned x = 0;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

void require(bool holds, const char* what);

// Whether memory is a thread's own: a GPU has it in registers.
bool own(const void* at);

template <class T>
T* aligned(T* at) {
  require(reinterpret_cast<uintptr_t>(at) % sizeof(T) == 0 || own(at), "an access is not aligned");
  return at;
}

// What 16 or 8 bytes move as.
template <int kBytes>
struct Words {
  uint32_t at[kBytes / 4];

  Words() = default;
  Words(const Words& from) { *this = from; }
  Words& operator=(const Words& from) {
    std::memcpy(const_cast<Words*>(aligned(this))->at, aligned(&from)->at, kBytes);
    return *this;
  }
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

constexpr int kWarp = 32;
constexpr size_t kStack = 128 << 10;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  unsigned exchanges, barriers;  // that it has come to
  bool left;
  std::vector<std::vector<Copy>> copies;  // by commit; the last ones are not committed yet
};

struct Warp {
  unsigned arrived;           // the threads' visits to exchanges
  uint64_t values[2][kWarp];  // what they bring, by turns
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned arrived, moves;  // the threads' visits to barriers; all that any thread has achieved
  std::string wrong;
  ucontext_t scheduler;
  std::function<void()> body;
};
inline Block block;

inline Thread& self() { return block.threads[threadIdx.x]; }
inline bool own(const void* at) { return size_t(static_cast<const char*>(at) - self().stack.get()) < kStack; }
inline void pause() { swapcontext(&self().context, &block.scheduler); }

// Of what a thread does: it goes no further, and the launch throws.
inline void require(bool holds, const char* what) {
  if (holds) return;
  block.wrong = "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ": " + what;
  pause();
}

inline void run_thread() {
  block.body();
  self().left = true;
  ++block.moves;
}

inline void run_block() {
  for (Warp& warp : block.warps) warp.arrived = 0;
  block.arrived = 0;
  for (Thread& thread : block.threads) {
    thread.exchanges = thread.barriers = 0;
    thread.left = false;
    thread.copies.assign(1, {});
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = &block.scheduler;
    makecontext(&thread.context, run_thread, 0);
  }
  for (bool all_left = false; !all_left;) {
    const unsigned before = block.moves;
    all_left = true;
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) {
      if (self().left) continue;
      swapcontext(&block.scheduler, &self().context);
      if (!block.wrong.empty()) throw std::runtime_error(std::exchange(block.wrong, ""));
      all_left &= self().left;
    }
    if (!all_left && block.moves == before) throw std::runtime_error("threads wait for others that have left");
  }
}

// kernel<<<blocks, threads, shared, stream>>>(...), as the tests write it before they compile it.
template <class Kernel>
auto on(Kernel kernel, unsigned blocks, unsigned threads, int, void*) {
  return [=](const auto&... arguments) {
    block.body = [&] { kernel(arguments...); };
    block.threads.resize(threads);
#ifdef VALGRIND_STACK_REGISTER
    for (Thread& thread : block.threads) VALGRIND_STACK_REGISTER(thread.stack.get(), thread.stack.get() + kStack);
#endif
    block.warps.resize((threads + kWarp - 1) / kWarp);
    blockDim.x = threads;
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block();
  };
}

}  // namespace emulated

using uint4 = emulated::Words<16>;
using uint2 = emulated::Words<8>;

template <class T>
T __ldcs(const T* from) {
  return *emulated::aligned(from);
}
template <class T>
T __ldg(const T* from) {
  return *emulated::aligned(from);
}

template <class T>
void __stwb(T* to, const T& value) {
  *emulated::aligned(to) = value;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  emulated::require(mask == ~0u, "only whole warps are emulated");
  emulated::Thread& thread = emulated::self();
  emulated::Warp& warp = emulated::block.warps[threadIdx.x / emulated::kWarp];
  const unsigned lane = threadIdx.x % emulated::kWarp;
  const uint64_t* const values = warp.values[thread.exchanges % 2];
  std::memcpy(&warp.values[thread.exchanges++ % 2][lane], &value, sizeof(T));
  ++warp.arrived;
  ++emulated::block.moves;
  while (warp.arrived < emulated::kWarp * thread.exchanges) emulated::pause();
  std::memcpy(&value, &values[lane ^ distance], sizeof(T));
  return value;
}

inline void __syncthreads() {
  const unsigned all = blockDim.x * ++emulated::self().barriers;
  ++emulated::block.arrived;
  ++emulated::block.moves;
  while (emulated::block.arrived < all) emulated::pause();
}

// What is copied arrives when it is waited for, and not a moment earlier.
inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  const auto both = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  emulated::require(bytes == 4 || bytes == 8 || bytes == 16, "a copy is of 4, 8 or 16 bytes");
  emulated::require(both % bytes == 0, "a copy is not aligned");
  std::memset(to, 0xff, bytes);
  emulated::self().copies.back().push_back({to, from, bytes});
}
inline void __pipeline_commit() { emulated::self().copies.emplace_back(); }
inline void __pipeline_wait_prior(size_t later) {
  auto& copies = emulated::self().copies;
  for (; copies.size() - 1 > later; copies.erase(copies.begin()))
    for (const auto& copy : copies.front()) std::memcpy(copy.to, copy.from, copy.bytes);
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __double2loint(double x) { return int(std::bit_cast<uint64_t>(x)); }
inline int __double2hiint(double x) { return int(std::bit_cast<uint64_t>(x) >> 32); }
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(uint64_t(uint32_t(high)) << 32 | uint32_t(low));
}

// Numbers of 16 bits; two of them make a word.
template <class E>
struct Short {
  unsigned short bits;

  static Short of(float x) { return {fastlif::on_host::narrow<1>(fastlif::on_host::Vec<float, 1>{x}, E{})[0]}; }
};
using __half = Short<fastlif::Half>;
using __nv_bfloat16 = Short<fastlif::BFloat16>;
struct __half2 {
  __half x, y;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __half2float(__half h) {
  const fastlif::Half half{h.bits};
  return fastlif::on_host::load<1>(&half, 1)[0];
}
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
inline __half __float2half_rn(float x) { return __half::of(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16::of(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__half::of(x), __half::of(y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16::of(x), __nv_bfloat16::of(y)}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice };
enum cudaFuncAttribute { cudaFuncAttributePreferredSharedMemoryCarveout };
constexpr int cudaSharedmemCarveoutMaxShared = 100;
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
