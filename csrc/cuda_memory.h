// How a GPU's thread sees memory: packs of up to 16 bytes and their numbers, and the bytes of bits that threads of a
// warp share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

#include <cmath>
#include <type_traits>

#include "options.h"

#define FASTLIF_UNROLL _Pragma("unroll")
#define FASTLIF_ROLLED _Pragma("unroll 1")
#define FASTLIF_FOURFOLD _Pragma("unroll 4")

#define FASTLIF_TARGET gpu
#include "neuron.h"
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
template <>
FASTLIF_INLINE float magnitude(const float& z) {
  return fabsf(z);
}
template <>
FASTLIF_INLINE double magnitude(const double& z) {
  return fabs(z);
}

// Markstein's division by a known number: the quotient's error, exact in a fused multiply-add, corrects it to the last
// bit. Where that underflows, and far outside the window, nothing depends on it.
template <>
FASTLIF_INLINE float over_scale(const Constants<float>& c, const float& a) {
  const float q = a * c.inverse;
  if (c.exact) return q;
  if (c.inverse == 0) return a / c.scale;
  return fmaf(fmaf(-q, c.scale, a), c.inverse, q);
}

template <>
FASTLIF_INLINE float next_above(const float& t) {
  return t < INFINITY ? nextafterf(t, INFINITY) : NAN;
}
template <>
FASTLIF_INLINE double next_above(const double& t) {
  return t < INFINITY ? nextafter(t, double(INFINITY)) : NAN;
}

inline double inverse(double scale) { return is_power_of_two(scale) ? 1 / scale : 0; }
inline float inverse(float scale) {
  return is_power_of_two(scale) || (scale >= 0x1p-60f && scale <= 0x1p60f) ? 1 / scale : 0;
}

// P numbers to calculate with.
template <class F, int P>
struct Numbers {
  F at[P];
};

// P elements as they lie in memory: words, since a compiler that sees elements takes a load apart as soon as it is
// issued, and so waits for it.
template <class E, int P>
struct Pack {
  static constexpr int kBytes = sizeof(E) * P;
  using Word = std::conditional_t<kBytes >= 4, uint32_t, std::conditional_t<kBytes == 2, uint16_t, uint8_t>>;
  static constexpr int kPerWord = sizeof(E) < sizeof(Word) ? sizeof(Word) / sizeof(E) : 1;

  Word words[kBytes / sizeof(Word)];

  FASTLIF_INLINE unsigned byte(int i) const { return words[i / kPerWord] >> i % kPerWord * 8 & 255u; }
  FASTLIF_INLINE void add_byte(int i, unsigned value) { words[i / kPerWord] |= Word(value << i % kPerWord * 8); }
};

template <class T>
using Access = std::conditional_t<
    sizeof(T) % 16 == 0, uint4,
    std::conditional_t<sizeof(T) == 8, uint2,
                       std::conditional_t<sizeof(T) == 4, unsigned,
                                          std::conditional_t<sizeof(T) == 2, unsigned short, unsigned char>>>>;

// Left in the caches: the next operator reads it.
template <class T>
FASTLIF_INLINE void store(void* to, const T& value) {
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Access<T>); ++i)
    static_cast<Access<T>*>(to)[i] = reinterpret_cast<const Access<T>*>(&value)[i];
}

template <int P>
FASTLIF_INLINE void store_byte(uint8_t* to, unsigned bits, int64_t first) {
  if (P == 8 || unsigned(first) % 8 == 0) *to = uint8_t(bits);
}

#ifdef __CUDA_ARCH__

// Read once: the first to be evicted from caches.
template <class T>
__device__ __forceinline__ T load(const void* from) {
  T to;
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Access<T>); ++i)
    reinterpret_cast<Access<T>*>(&to)[i] = __ldcs(static_cast<const Access<T>*>(from) + i);
  return to;
}

// Read again by other threads: kept in caches.
template <class T>
__device__ __forceinline__ T look_up(const void* from) {
  T to;
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Access<T>); ++i)
    reinterpret_cast<Access<T>*>(&to)[i] = __ldg(static_cast<const Access<T>*>(from) + i);
  return to;
}

// As `store`, which compilers take apart where they see the words made one by one.
template <class T>
__device__ __forceinline__ void store_whole(void* to, const T& value) {
  FASTLIF_UNROLL
  for (unsigned i = 0; i < sizeof(T) / sizeof(Access<T>); ++i)
    __stwb(static_cast<Access<T>*>(to) + i, reinterpret_cast<const Access<T>*>(&value)[i]);
}

template <class F, class E, int P>
__device__ __forceinline__ Numbers<F, P> widen(const Pack<E, P>& from) {
  Numbers<F, P> to;
  FASTLIF_UNROLL
  for (int i = 0; i < P; ++i) {
    if constexpr (std::is_same_v<E, double>) {
      to.at[i] = __hiloint2double(from.words[2 * i + 1], from.words[2 * i]);
    } else if constexpr (std::is_same_v<E, float>) {
      to.at[i] = __uint_as_float(from.words[i]);
    } else {
      const unsigned word = from.words[i / from.kPerWord];
      if constexpr (std::is_same_v<E, BFloat16>) to.at[i] = __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
      else to.at[i] = __half2float(__ushort_as_half(i % 2 ? word >> 16 : word));
    }
  }
  return to;
}

// Rounded to nearest even.
template <class E, class F, int P>
__device__ __forceinline__ Pack<E, P> narrow(const Numbers<F, P>& from) {
  Pack<E, P> to;
  if constexpr (std::is_same_v<E, double>) {
    FASTLIF_UNROLL
    for (int i = 0; i < P; ++i) {
      to.words[2 * i] = __double2loint(from.at[i]);
      to.words[2 * i + 1] = __double2hiint(from.at[i]);
    }
  } else if constexpr (std::is_same_v<E, float>) {
    FASTLIF_UNROLL
    for (int i = 0; i < P; ++i) to.words[i] = __float_as_uint(from.at[i]);
  } else if constexpr (P == 1) {
    if constexpr (std::is_same_v<E, BFloat16>) to.words[0] = __bfloat16_as_ushort(__float2bfloat16_rn(from.at[0]));
    else to.words[0] = __half_as_ushort(__float2half_rn(from.at[0]));
  } else {
    FASTLIF_UNROLL
    for (int i = 0; i < P; i += 2) {
      if constexpr (std::is_same_v<E, BFloat16>) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(from.at[i], from.at[i + 1]);
        to.words[i / 2] = reinterpret_cast<const unsigned&>(pair);
      } else {
        const __half2 pair = __floats2half2_rn(from.at[i], from.at[i + 1]);
        to.words[i / 2] = reinterpret_cast<const unsigned&>(pair);
      }
    }
  }
  return to;
}

// From global to a thread's own shared memory, without registers; wait_for_copies() before reading it.
template <class T>
__device__ __forceinline__ void copy_ahead(void* to, const void* from) {
  if constexpr (sizeof(T) >= 4) __pipeline_memcpy_async(to, from, sizeof(T));
  else store(to, load<T>(from));
}
__device__ __forceinline__ void wait_for_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// A byte of bits belongs to 8 / P neighbouring threads, which put their P bits together, in the low byte and the second
// one alike; the first thread stores.
template <int P>
__device__ __forceinline__ unsigned in_byte(unsigned bits, int64_t first) {
  bits <<= unsigned(first) % 8;
  FASTLIF_UNROLL
  for (int distance = 1; distance < 8 / P; distance *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, distance);
  return bits;
}

#else  // nvcc reads what calls them for the host, too

template <class T>
__host__ __device__ T load(const void*);
template <class T>
__host__ __device__ T look_up(const void*);
template <class F, class E, int P>
__host__ __device__ Numbers<F, P> widen(const Pack<E, P>&);
template <class E, class F, int P>
__host__ __device__ Pack<E, P> narrow(const Numbers<F, P>&);
template <class T>
__host__ __device__ void copy_ahead(void*, const void*);
__host__ __device__ void wait_for_copies();
template <int P>
__host__ __device__ unsigned in_byte(unsigned, int64_t);

#endif

}  // namespace fastlif::gpu
