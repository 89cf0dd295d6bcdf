// The arithmetic of one step of a leaky integrate-and-fire neuron, forward and backward, and nothing else.
//
// R is a number on a GPU and a vector of numbers on a CPU; M is what comparing them gives. Every operation is rounded
// as written (-ffp-contract=off, -fmad=false), in the order of fastlif/ops/reference.py, so that all backends agree bit
// for bit.
//
// Included once for each FASTLIF_TARGET, which names a namespace: a compiler must see vectors compared where it may use
// the instruction set, or it compares them one by one.

#include "options.h"

namespace fastlif::FASTLIF_TARGET {

// exp(x) for x <= 0: defined for numbers in cuda_loops.h, for vectors in lanes.h.
template <class R>
FASTLIF_INLINE R exponential(const R& x);

// |z|: defined for numbers in cuda_memory.h, for vectors in lanes.h.
template <class R>
FASTLIF_INLINE R magnitude(const R& z);

// The least number above t, NaN where there is none: defined for numbers in cuda_memory.h, for vectors in lanes.h.
template <class R>
FASTLIF_INLINE R next_above(const R& t);

// The least membrane that fires.
template <class R>
FASTLIF_INLINE R firing(const Options& o, const R& threshold) {
  return o.fire_on_equal ? threshold : next_above(threshold);
}

template <class R>
FASTLIF_INLINE auto fire(const Constants<R>& c, const R& h) {
  return h >= c.firing;
}

// From the membrane, gain * x and, asked for by a delayed reset alone, the spikes of the step before.
template <class R, class Before>
FASTLIF_INLINE R charge(const Options& o, const Constants<R>& c, const R& v, const Before& before, const R& driven) {
  R h = c.decay * v + driven + c.bias;
  if (o.reset == Reset::delayed) h = h - (before() ? c.amount : R{});
  return h;
}

template <class R, class M>
FASTLIF_INLINE R reset(const Options& o, const Constants<R>& c, const R& h, const M& s) {
  if (o.reset == Reset::soft) return h - (s ? c.amount : R{});
  if (o.reset == Reset::hard) return s ? c.v_reset : h;
  return h;
}

// a / scale; cuda_memory.h has another way to the same bits.
template <class R>
FASTLIF_INLINE R over_scale(const Constants<R>& c, const R& a) {
  return c.exact ? R(a * c.inverse) : R(a / c.scale);
}

// Constants of a surrogate whose scale and height are 1, which change nothing.
template <class R>
struct Unit : Constants<R> {
  static constexpr int height = 1, scale = 1;
};
template <class R>
FASTLIF_INLINE R over_scale(const Unit<R>&, const R& a) {
  return a;
}

// The derivative of firing at z = h - threshold.
template <class C, class R>
FASTLIF_INLINE R surrogate(const Options& o, const C& c, const R& z) {
  const R one = R{} + 1;
  switch (o.surrogate) {
    case Surrogate::triangle: {
      const R a = magnitude(z);
      return a < c.scale ? c.height * (one - over_scale(c, a)) : R{};
    }
    case Surrogate::rectangle: return magnitude(z) < c.scale ? c.height : R{};
    case Surrogate::pass_through: return c.height;
    case Surrogate::sigmoid: {
      const R e = exponential(-(c.scale * magnitude(z)));
      return c.height * e / ((one + e) * (one + e));
    }
    case Surrogate::atan: {
      const R u = c.scale * z;
      return c.height / (one + u * u);
    }
    default: {
      const R d = one + c.scale * magnitude(z);
      return c.height / (d * d);
    }
  }
}

// abs(z) / width in 127 levels, as a number; kLevels where z is outside the window (or NaN).
template <class R>
FASTLIF_INLINE R level(const Constants<R>& c, const R& h) {
  const R a = magnitude(R(h - c.threshold)), top = R{} + (kLevels - 1), q = over_scale(c, a) * (R{} + kLevels);
  return a < c.scale ? (q < top ? q : top) : R{} + kLevels;
}

// What a level and the spike say of z: abs(z) at the middle of the level's interval.
template <class R, class M>
FASTLIF_INLINE void from_level(const Options& o, const Constants<R>& c, const R& q, const M& s, R& sg, R& h) {
  const R one = R{} + 1, a = (q + (R{} + 0.5f)) * (one / (R{} + kLevels)), z = a * c.scale;
  const R peak = o.surrogate == Surrogate::triangle ? c.height * (one - a) : c.height;
  sg = q < R{} + kLevels ? peak : R{};
  h = c.threshold + (s ? z : -z);
}

// What the next step hands back. `g` is dL/dv[t], with a delayed reset dL/dh[t+1].
template <class R>
struct Carried {
  R g, decay, gain, threshold;  // the last three: the sums of dL/ddecay, dL/dgain, dL/dthreshold
};

// d(-reset_amount * s) / dthreshold: the spike moves with the threshold, and so does a tied amount.
template <class R, class M>
FASTLIF_INLINE R taken(const Options& o, const Constants<R>& c, const M& s, const R& sg) {
  const R moved = o.detach_reset ? R{} : c.amount * sg;
  return o.tied ? moved - (s ? R{} + 1 : R{}) : moved;
}

template <class R>
FASTLIF_INLINE R delayed_factor(const Options& o, const Constants<R>& c, const R& sg) {
  return o.detach_reset ? c.decay : c.decay - c.amount * sg;
}

// dL/dh[t]. `last`: step T-1, where carried.g is the gradient of the final membrane; `cut`: none flows from t+1 to t.
template <class R, class M>
FASTLIF_INLINE R backward(const Options& o, const Constants<R>& c, const M& s, const R& sg, const R& h, const R& gs,
                          bool last, bool cut, bool for_threshold, Carried<R>& carried) {
  const R one = R{} + 1;
  const bool delayed = o.reset == Reset::delayed;
  R g = carried.g, reset_g = carried.g;
  if (last) {
    if (delayed) reset_g = R{};
  } else {
    if (delayed) g = g * delayed_factor(o, c, sg);
    if (cut) g = R{};
    if (!delayed) reset_g = g;
  }
  R through = g;
  if (o.reset == Reset::soft && !o.detach_reset) through = g * (one - c.amount * sg);
  if (o.reset == Reset::hard)
    through = o.detach_reset ? (s ? R{} : g) : R(g * ((s ? R{} : one) + (c.v_reset - h) * sg));
  const R gh = gs * sg + through;
  if (for_threshold) {
    R term = -(gs * sg);
    if (o.reset == Reset::soft || delayed) term = term + reset_g * taken(o, c, s, sg);
    if (o.reset == Reset::hard && !o.detach_reset) term = term - g * ((c.v_reset - h) * sg);
    carried.threshold = carried.threshold + term;
  }
  carried.g = delayed ? gh : R(c.decay * gh);
  return gh;
}

// With a delayed reset, the step before the first one that carries gradient: its spike acts inside, its membrane is v.
template <class R>
FASTLIF_INLINE void backward_before(const Options& o, const Constants<R>& c, const R& v, Carried<R>& carried) {
  if (o.reset != Reset::delayed) return;
  const auto s = fire(c, v);
  const R sg = surrogate(o, c, R(v - c.threshold));
  carried.threshold = carried.threshold + carried.g * taken(o, c, s, sg);
  carried.g = carried.g * delayed_factor(o, c, sg);
}

}  // namespace fastlif::FASTLIF_TARGET
