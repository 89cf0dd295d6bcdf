// Batch norm before the neurons, for the P neurons of one thread: which channels they are of, and these channels'
// numbers.
#pragma once

#include "cuda_memory.h"
#include "state.h"

namespace fastlif::gpu {

// Whether there is one, and whether the thread's neurons share a channel (images, if P divides their size) or may have
// one each (channels_last).
enum class Norm { none, shared, each };

template <class F, int P, Norm kNorm>
class Channels {
  static constexpr int kCount = kNorm == Norm::each ? P : 1;

 public:
  // What is known of the channels of neurons 0 ... P-1.
  struct Values {
    F at[kCount];

    FASTLIF_INLINE F operator[](int i) const { return at[kNorm == Norm::each ? i : 0]; }
  };

  // `like`: one of the channels' numbers; the others have its size and its inner.
  FASTLIF_INLINE Channels(const Param& like, int64_t first) : like(like), channel(0), left(0) {
    if (kNorm == Norm::none) return;
    if (((first | like.inner | like.size) >> 32) == 0) {
      const uint32_t run = uint32_t(first) / uint32_t(like.inner);
      channel = run % uint32_t(like.size);
      left = like.inner - (uint32_t(first) - run * uint32_t(like.inner));
    } else {
      channel = first / like.inner % like.size;
      left = like.inner - first % like.inner;
    }
  }

  template <int n>
  struct Several {
    Values of[n];
  };

  // Their Values; zeros where there is no param.
  template <class... Params>
  FASTLIF_INLINE Several<sizeof...(Params)> read(const Params&... params) const {
    constexpr int n = sizeof...(Params);
    const F* const data[n] = {static_cast<const F*>(params.data)...};
    Several<n> to{};
    if constexpr (kNorm == Norm::none) {
      return to;
    } else {
      if constexpr (kCount * sizeof(F) % 16 == 0) {
        uintptr_t address = channel * sizeof(F);
        FASTLIF_UNROLL
        for (int j = 0; j < n; ++j) address |= reinterpret_cast<uintptr_t>(data[j]);
        if (like.inner == 1 && channel + P <= like.size && address % 16 == 0) {
          FASTLIF_UNROLL
          for (int j = 0; j < n; ++j)
            if (data[j]) to.of[j] = look_up<Values>(data[j] + channel);
          return to;
        }
      }
      int64_t at = channel, here = left;
      FASTLIF_UNROLL
      for (int i = 0; i < kCount; ++i) {
        FASTLIF_UNROLL
        for (int j = 0; j < n; ++j)
          if (data[j]) to.of[j].at[i] = data[j][at];
        if (--here > 0) continue;
        here = like.inner;
        at = at + 1 < like.size ? at + 1 : 0;
      }
      return to;
    }
  }

 private:
  const Param& like;
  int64_t channel, left;  // of the first neuron; neurons from it on that share it
};

// scale * x + shift; x itself without batch norm.
template <class F, int P, Norm kNorm>
struct Affine {
  using Own = Channels<F, P, kNorm>;
  typename Own::Values scale, shift;

  FASTLIF_INLINE Affine(const Own& own, const Problem& p) {
    const auto all = own.read(p.scale, p.shift);
    scale = all.of[0];
    shift = all.of[1];
  }

  FASTLIF_INLINE Numbers<F, P> operator()(const Numbers<F, P>& x) const {
    Numbers<F, P> to = x;
    if constexpr (kNorm != Norm::none) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) to.at[k] = scale[k] * x.at[k] + shift[k];
    }
    return to;
  }
};

// The gradient of what batch norm normalized, from that of its result; `away`: what was normalized less its mean.
template <class F, int P, Norm kNorm>
struct Through {
  using Own = Channels<F, P, kNorm>;
  typename Own::Values scale, mean, slope, offset;
  bool of_statistics;  // whether they were taken of what was normalized

  FASTLIF_INLINE Through(const Own& own, const Backward& p) : of_statistics(p.slope.data != nullptr) {
    const auto all = own.read(p.scale, p.mean, p.slope, p.offset);
    scale = all.of[0];
    mean = all.of[1];
    slope = all.of[2];
    offset = all.of[3];
  }

  FASTLIF_INLINE Numbers<F, P> away(const Numbers<F, P>& x) const {
    Numbers<F, P> to;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) to.at[k] = x.at[k] - mean[k];
    return to;
  }
  FASTLIF_INLINE Numbers<F, P> operator()(const Numbers<F, P>& gx, const Numbers<F, P>& away) const {
    Numbers<F, P> to;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) to.at[k] = scale[k] * gx.at[k];
    if (!of_statistics) return to;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) to.at[k] = to.at[k] - slope[k] * away.at[k] - offset[k];
    return to;
  }
};

}  // namespace fastlif::gpu
