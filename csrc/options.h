// A neuron's options and numbers, as they cross from Python to a kernel.
#pragma once

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
  R equal;    // the threshold again if reaching it fires, else NaN, which nothing equals
  R inverse;  // on a GPU 1 / scale, or 0 where dividing by the scale needs a division
};

constexpr int kLevels = 127;  // of the 1-byte code; the last one says outside

}  // namespace fastlif
