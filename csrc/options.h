// A neuron's options and numbers, as they cross from Python to a kernel.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FASTLIF_INLINE __host__ __device__ __forceinline__
#else
#define FASTLIF_INLINE inline __attribute__((always_inline))
#endif

namespace fastlif {

// Numbered as RESETS and KINDS in fastlif/neuron.py and fastlif/surrogate.py, Keep as in fastlif/ops/state.py.
enum class Reset : int { none, soft, delayed, hard };
enum class Surrogate : int { triangle, rectangle, pass_through, sigmoid, atan, fast_sigmoid };
enum class Keep : int { nothing, spikes, bits, code, input };

struct Options {
  Reset reset;
  Surrogate surrogate;
  bool tied;  // reset_amount is the threshold
  bool detach_reset;
  bool fire_on_equal;
  bool spiking;  // false: the output is h
  Keep keep;
};

// What 16-bit numbers are in memory.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class R>
struct Constants {
  R decay, gain, bias, threshold, amount, v_reset, scale, height;
  R firing;    // the least membrane that fires
  R inverse;   // 1 / scale, or 0 where only a division divides by the scale
  bool exact;  // the scale is a power of two: multiplying by its inverse divides
};

inline bool is_power_of_two(double scale) {
  int exponent;
  return std::frexp(scale, &exponent) == 0.5 && exponent > -100 && exponent < 100;
}

constexpr int kLevels = 127;  // of the 1-byte code; the last one says outside

}  // namespace fastlif
