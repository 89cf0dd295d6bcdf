// A thread's own shared memory in backward with recomputation: the steps of one chunk.
#pragma once

#include "cuda_loops.h"

namespace fastlif::gpu {

// x, h and gs of kSteps steps. Neighbouring threads' parts of 16 bytes lie side by side.
//
// h takes x's place, but not after batch norm (kKeepsX), which needs x again on the way back. To load it again would
// move a third more bytes through L2, and need registers for the loads under way; to keep it costs shared memory that
// is not missed: an SM of 228 KB then still holds 18 K neuron-steps of float32, 150 KB that can be under way at once
// where 30 KB are enough (cuda_loops.h).
template <class F, class X, class S, int P, int kSteps, bool kKeepsX>
struct Scratch {
  static constexpr int kPart = sizeof(F) * P < 16 ? P : 16 / int(sizeof(F)), kParts = P / kPart;
  using Part = Numbers<F, kPart>;
  static constexpr int kBytes = kSteps * P * int(sizeof(F) + sizeof(S) + (kKeepsX ? sizeof(X) : 0));  // for one thread

  char *h, *gs, *x;
  int threads;

  FASTLIF_INLINE Scratch(char* shared, int thread, int threads)
      : h(shared + thread * sizeof(Part)),
        gs(shared + threads * kSteps * P * sizeof(F) + thread * sizeof(Pack<S, P>)),
        x(shared + threads * kSteps * P * (sizeof(F) + sizeof(S)) + thread * sizeof(Pack<X, P>)),
        threads(threads) {}

  FASTLIF_INLINE char* h_at(int step) const { return h + step * kParts * threads * int(sizeof(Part)); }
  FASTLIF_INLINE char* gs_at(int step) const { return gs + step * threads * int(sizeof(Pack<S, P>)); }
  FASTLIF_INLINE char* x_at(int step) const {
    return kKeepsX ? x + step * threads * int(sizeof(Pack<X, P>)) : h_at(step);
  }

  FASTLIF_INLINE void put_h(int step, const Numbers<F, P>& from) const {
    FASTLIF_UNROLL
    for (int i = 0; i < kParts; ++i) {
      Part part;
      FASTLIF_UNROLL
      for (int k = 0; k < kPart; ++k) part.at[k] = from.at[i * kPart + k];
      store(h_at(step) + i * threads * int(sizeof(Part)), part);
    }
  }
  FASTLIF_INLINE Numbers<F, P> get_h(int step) const {
    Numbers<F, P> to;
    FASTLIF_UNROLL
    for (int i = 0; i < kParts; ++i) {
      const Part part = get<Part>(h_at(step) + i * threads * int(sizeof(Part)));
      FASTLIF_UNROLL
      for (int k = 0; k < kPart; ++k) to.at[i * kPart + k] = part.at[k];
    }
    return to;
  }
  FASTLIF_INLINE Pack<X, P> get_x(int step) const { return get<Pack<X, P>>(x_at(step)); }
  FASTLIF_INLINE Pack<S, P> get_gs(int step) const { return get<Pack<S, P>>(gs_at(step)); }

 private:
  template <class T>
  static FASTLIF_INLINE T get(const char* from) {
    static_assert(sizeof(T) == sizeof(Access<T>));
    const Access<T> word = *reinterpret_cast<const Access<T>*>(from);
    return reinterpret_cast<const T&>(word);
  }
};

struct NoScratch {
  static constexpr int kBytes = 0;

  FASTLIF_INLINE NoScratch(char*, int, int) {}
};

// Of a Thread.
template <class T>
using ScratchOf =
    std::conditional_t<T::kKept == Kept::input,
                       Scratch<typename T::F, typename T::X, typename T::S, T::P, kChunkSteps, T::kNorm != Norm::none>,
                       NoScratch>;

}  // namespace fastlif::gpu
