// How a GPU's thread sees memory: packs of up to 16 bytes, converted to and from the type of the arithmetic, the bits that
// threads of a warp share, and its own shared memory. On the host the same by plain C++.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "options.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FASTLIF_UNROLL _Pragma("unroll")
namespace fastlif {
using BFloat16 = __nv_bfloat16;
using Half = __half;
}  // namespace fastlif
#else
#define FASTLIF_UNROLL
namespace fastlif {
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
}  // namespace fastlif
#endif

#define FASTLIF_TARGET gpu
#include "neuron.h"
#ifndef __CUDACC__
#include "lanes.h"
#endif
#undef FASTLIF_TARGET

namespace fastlif::gpu {

template <>
FASTLIF_INLINE float exponential(const float& x) {
  return expf(x);
}

template <>
FASTLIF_INLINE double exponential(const double& x) {
  return exp(x);
}

// P elements, accessed 16 bytes at a time.
template <class E, int P>
struct alignas(sizeof(E) * P < 16 ? sizeof(E) * P : 16) Pack {
  E at[P];
};

#ifdef __CUDACC__
template <int bytes>
struct WordOf {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<1> {
  using type = unsigned char;
};
#endif

// Read once: the first to be evicted from caches.
template <class T>
FASTLIF_INLINE T load(const void* from) {
#ifdef __CUDA_ARCH__
  using Word = typename WordOf<sizeof(T)>::type;
  T to;
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Word); ++i)
    reinterpret_cast<Word*>(&to)[i] = __ldcs(static_cast<const Word*>(from) + i);
  return to;
#else
  return *static_cast<const T*>(from);
#endif
}

// Left in the caches: the next operator reads it.
template <class T>
FASTLIF_INLINE void store(void* to, const T& value) {
#ifdef __CUDA_ARCH__
  using Word = typename WordOf<sizeof(T)>::type;
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Word); ++i)
    static_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(&value)[i];
#else
  *static_cast<T*>(to) = value;
#endif
}

#ifdef __CUDACC__
template <class F>
FASTLIF_INLINE F wide(float x) {
  return x;
}
template <class F>
FASTLIF_INLINE F wide(double x) {
  return x;
}
template <class F>
FASTLIF_INLINE F wide(BFloat16 x) {
  return __bfloat162float(x);
}
template <class F>
FASTLIF_INLINE F wide(Half x) {
  return __half2float(x);
}
template <class E, class F>
FASTLIF_INLINE E narrowed(F x) {
  if constexpr (std::is_same_v<E, BFloat16>) return __float2bfloat16_rn(x);
  else if constexpr (std::is_same_v<E, Half>) return __float2half_rn(x);
  else return x;
}
#else
template <class F, class E>
F wide(const E& x) {
  return load<1>(&x, 1)[0];
}
template <class E, class F>
E narrowed(F x) {
  const auto bits = narrow<1>(Vec<F, 1>{x}, E{});
  return bits_as<E>(bits);
}
#endif

template <class F, class E, int P>
FASTLIF_INLINE Pack<F, P> widen(const Pack<E, P>& from) {
  Pack<F, P> to;
  FASTLIF_UNROLL
  for (int i = 0; i < P; ++i) to.at[i] = wide<F>(from.at[i]);
  return to;
}

// Rounded to nearest even.
template <class E, class F, int P>
FASTLIF_INLINE Pack<E, P> narrow(const Pack<F, P>& from) {
  Pack<E, P> to;
  FASTLIF_UNROLL
  for (int i = 0; i < P; ++i) to.at[i] = narrowed<E>(from.at[i]);
  return to;
}

// A byte of bits belongs to 8 / P neighbouring threads, which put their P bits together, in the low byte and the second
// one alike; the first thread stores. The host runs a warp's threads in turn, so there each adds its own.
template <int P>
FASTLIF_INLINE unsigned in_byte(unsigned bits, int64_t first) {
  bits <<= unsigned(first) % 8;
#ifdef __CUDA_ARCH__
  FASTLIF_UNROLL
  for (int distance = 1; distance < 8 / P; distance *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, distance);
#endif
  return bits;
}

template <int P>
FASTLIF_INLINE void store_byte(uint8_t* to, unsigned bits, int64_t first) {
#ifdef __CUDA_ARCH__
  if (unsigned(first) % 8 == 0) *to = uint8_t(bits);
#else
  *to = uint8_t(unsigned(first) % 8 == 0 ? bits : *to | bits);
#endif
}

// A thread's own shared memory: P numbers for each step of a chunk, 16 bytes beside its neighbours' 16.
template <class F, int P>
struct Scratch {
  static constexpr int kPart = sizeof(F) * P < 16 ? P : 16 / sizeof(F), kParts = P / kPart;
  using Part = Pack<F, kPart>;

  Part* own;
  int threads;

  FASTLIF_INLINE void put(int step, const Pack<F, P>& from) const {
    FASTLIF_UNROLL
    for (int i = 0; i < kParts; ++i) own[(step * kParts + i) * threads] = reinterpret_cast<const Part*>(&from)[i];
  }
  FASTLIF_INLINE Pack<F, P> get(int step) const {
    Pack<F, P> to;
    FASTLIF_UNROLL
    for (int i = 0; i < kParts; ++i) reinterpret_cast<Part*>(&to)[i] = own[(step * kParts + i) * threads];
    return to;
  }
};

}  // namespace fastlif::gpu
