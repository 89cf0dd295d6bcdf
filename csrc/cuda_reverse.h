// Backward over all windows, as one thread of a GPU does it.
#pragma once

#include "cuda_recompute.h"

namespace fastlif::gpu {

template <class T, class Known>
using Steps = std::conditional_t<T::kKept == Kept::input, FromInput<T, Known>, FromRows<T, Known>>;

template <class T, class Known>
class Reverse : Steps<T, Known> {
  using Base = Steps<T, Known>;
  using Base::c;
  using Base::l;
  using Base::o;
  using typename Base::Membrane;

 public:
  FASTLIF_INLINE Reverse(const Launch<Backward, typename T::F>& l, const typename T::Each& c, int64_t first,
                         const ScratchOf<T>& scratch)
      : Base(l, c, first, scratch) {}

  FASTLIF_INLINE void run() {
    if (l.steps != 0) {
      if (T::kLean || l.tail == 0) before(this->steps(0, l.steps));
      else in_windows();
    }
    this->finish();
  }

 private:
  FASTLIF_INLINE void in_windows() {
    for (int start = l.last_window, stop = l.steps;; stop = start, start -= l.cut) {
      const int from = stop - start > l.tail ? stop - l.tail : start;
      const Membrane v = this->steps(from, stop);
      if (from > start || start == 0) {
        before(v);
        FASTLIF_UNROLL
        for (int k = 0; k < T::P; ++k) this->carried[k].g = 0;
      }
      this->skip(start, from);
      if (start == 0) return;
    }
  }

  // Past the first step that carries gradient, whose membrane before it is v.
  FASTLIF_INLINE void before(const Membrane& v) {
    FASTLIF_UNROLL
    for (int k = 0; k < T::P; ++k) backward_before(o, c[k], v.at[k], this->carried[k]);
  }
};

template <class T>
FASTLIF_INLINE void reverse(const Launch<Backward, typename T::F>& l, int64_t first, const ScratchOf<T>& scratch) {
  if (first >= l.problem.neurons) return;
  const typename T::Each c(l.problem, l.constants, first);
  const auto as = [&]<class Known>(Known) { Reverse<T, Known>(l, c, first, scratch).run(); };
  if constexpr (T::kLean) {
    switch (l.problem.options.reset) {
      case Reset::none: return as(Only<Reset::none>{});
      case Reset::soft: return as(Only<Reset::soft>{});
      case Reset::delayed: return as(Only<Reset::delayed>{});
      default: return as(Only<Reset::hard>{});
    }
  } else {
    as(Any{});
  }
}

}  // namespace fastlif::gpu
