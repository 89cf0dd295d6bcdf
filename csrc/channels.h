// Sums over channels, and what batch norm makes of them: the same arithmetic on a CPU and a GPU, in the order of
// fastlif/ops/channels.py.
#pragma once

#include <cmath>

#include "run.h"

namespace fastlif {

// The sums over each of `channels` (neuron n is of channel n / inner % channels) of rows [count, neurons], `stride`
// elements apart, and of squares if they are asked for, in `parts` that add up to them; [channels] each, `part_stride`
// apart. The same for any number of threads.
struct ChannelSums {
  const void* rows;
  int64_t count, stride, neurons, inner, channels, parts, part_stride;
  double *sums, *squares;  // squares: or null
};
void cpu_channel_sums(const ChannelSums& problem, Type type);  // in one part
void cuda_channel_sums(const ChannelSums& problem, Type type, int device);

// Two sums for every channel, in parts; null where nothing is summed.
struct Parts {
  const double* sums;  // [parts, 2, channels]
  int64_t parts, channels;
};

template <class F>
struct Statistics {
  double count, eps;
  F *mean, *inverse, *unbiased;

  FASTLIF_INLINE void operator()(int64_t c, double sum, double squares) const {
    const double around = squares - sum * sum / count, var = (around < 0 ? 0 : around) / count;
    mean[c] = F(sum / count);
    inverse[c] = F(1 / std::sqrt(var + eps));
    unbiased[c] = F(var * (count / (count > 2 ? count - 1 : 1)));
  }
};

template <class F>
struct AffineOf {
  const F *weight, *bias, *mean, *inverse;  // the first two: or null
  F *scale, *shift;

  FASTLIF_INLINE void operator()(int64_t c, double, double) const {
    const F s = weight ? inverse[c] * weight[c] : inverse[c], at = mean[c] * s;
    scale[c] = s;
    shift[c] = bias ? bias[c] - at : -at;
  }
};

// From the sums of dL/dx and of dL/dx * (y - mean).
template <class F>
struct Gradients {
  double count;
  const F *inverse, *scale;
  F *weight, *bias, *slope, *offset;

  FASTLIF_INLINE void operator()(int64_t c, double shifted, double scaled) const {
    weight[c] = F(scaled * inverse[c]);
    bias[c] = F(shifted);
    slope[c] = F(scaled / count * inverse[c] * inverse[c] * scale[c]);
    offset[c] = F(shifted / count * scale[c]);
  }
};

// body(c, the channel's two sums) for every channel.
template <class Body>
void cuda_for_channels(const Body& body, const Parts& parts, int device);

}  // namespace fastlif
