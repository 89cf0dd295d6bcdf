// What one thread of a GPU does: the time loops over its P neurons.
//
// To reach a GPU's bandwidth, an SM must have some 30 KB under way (an H200's 132 SMs: 4.8 TB/s times 0.8 us). A thread
// keeps kAhead steps' loads of 16 bytes under way, so 512 threads an SM are enough; with recomputation, up to 32 loads.
#pragma once

#include "cuda_norm.h"

namespace fastlif::gpu {

constexpr int kAhead = 4;
constexpr int kChunkSteps = int(kChunk);
constexpr int64_t kMostSteps = 1 << 30, kMostNeurons = int64_t(1) << 35;  // for int steps and 2^31 - 1 blocks

// What a kernel gets: the problem, its numbers in the membrane's type, and what a thread would have to work out.
template <class Problem, class F>
struct Launch {
  Problem problem;
  Constants<F> constants;
  int steps, cut, tail;       // of the schedule; tail == 0 where all steps carry gradient
  int last_window;            // the first step of the last window of `cut` steps
  int64_t rows, borders;      // in the state
  int64_t in_step, out_step;  // bytes between two steps of x and spikes, in backward of gs and gx
};

// Which formats a kernel serves, by what backward reads: Keep::nothing, spikes and bits, a byte of code, or x itself.
enum class Kept { bits, code, input };

// Options known when a loop is compiled, or only when it runs.
template <Reset kReset>
struct Only {
  static FASTLIF_INLINE Options of(Options o) {
    o.reset = kReset;
    o.spiking = true;
    return o;
  }
};
struct Any {
  static FASTLIF_INLINE Options of(const Options& o) { return o; }
};

// F: the type of the arithmetic, X: of the input, S: of the spikes. kLean: the common case, in which the P neurons
// spike and have the same numbers, all steps carry gradient, and no gradient of decay, gain or threshold is asked for.
// kNorm: batch norm before them, whose numbers they need not share; it goes with Kept::input, where nothing is kept
// too.
template <class F_, class X_, class S_, int kP, bool kIsLean, Kept kKeeps, Norm kBefore>
struct Thread {
  using F = F_;
  using X = X_;
  using S = S_;
  static constexpr int P = kP;
  static constexpr bool kLean = kIsLean;
  static constexpr Kept kKept = kKeeps;
  static constexpr Norm kNorm = kBefore;
  using In = Pack<X, P>;
  using Spikes = Pack<S, P>;
  using Membrane = Numbers<F, P>;

  static FASTLIF_INLINE F element(const Param& param, int64_t n) {
    const F* data = static_cast<const F*>(param.data);
    if (param.size == 1) return *data;
    if (((n | param.inner | param.size) >> 32) == 0)
      return data[uint32_t(n) / uint32_t(param.inner) % uint32_t(param.size)];
    return data[n / param.inner % param.size];
  }

  // The numbers of the thread's neurons.
  struct Each {
    Constants<F> each[kLean ? 1 : P];

    FASTLIF_INLINE Each(const Problem& p, const Constants<F>& all, int64_t first) {
      FASTLIF_UNROLL
      for (int i = 0; i < (kLean ? 1 : P); ++i) {
        Constants<F>& c = each[i];
        c = all;
        if (p.params[0].data) c.decay = element(p.params[0], first + i);
        if (p.params[1].data) c.gain = element(p.params[1], first + i);
        if (!p.params[2].data) continue;
        c.threshold = element(p.params[2], first + i);
        if (p.options.tied) c.amount = c.threshold;
        c.firing = firing(p.options, c.threshold);
      }
    }
    FASTLIF_INLINE const Constants<F>& operator[](int i) const { return each[kLean ? 0 : i]; }
  };

  // P numbers of a vector [N]; zeros where there is none.
  static FASTLIF_INLINE Membrane vector(const void* from, int64_t first) {
    if (!from) return {};
    return load<Membrane>(static_cast<const F*>(from) + first);
  }
  static FASTLIF_INLINE void store_vector(void* to, int64_t first, const Membrane& m) {
    if (to) store(static_cast<F*>(to) + first, m);
  }

  // Bytes from a row's start to what the row holds of the thread's neurons.
  static FASTLIF_INLINE int64_t place(int64_t first) {
    return kKept == Kept::input ? first * int64_t(sizeof(X)) : kKept == Kept::code ? first : first / 8;
  }

  static FASTLIF_INLINE unsigned packed(const bool (&s)[P]) {
    unsigned bits = 0;
    FASTLIF_UNROLL
    for (int i = 0; i < P; ++i) bits |= s[i] ? 1u << i : 0u;
    return bits;
  }

  // x becomes gain * x. Whether there is anything to multiply by is asked once, not for each neuron; so are others
  // below.
  static FASTLIF_INLINE void drive(const Each& c, Membrane& x) {
    if (kLean && c[0].gain == 1) return;
    FASTLIF_UNROLL
    for (int i = 0; i < P; ++i) x.at[i] = c[i].gain * x.at[i];
  }

  // Calls body() where it is known how to divide by the scale.
  template <class Body>
  static FASTLIF_INLINE void knowing_scale(const Constants<F>& c, const Body& body) {
    if (!kLean || c.exact) body();
    else if (c.inverse != 0) body();
    else body();
  }

  static FASTLIF_INLINE void store_row(const Options& o, const Each& c, const In& in, const Membrane& h,
                                       const bool (&s)[P], uint8_t* row, int64_t plane, int64_t first) {
    if constexpr (kKept == Kept::input) {
      store(row, in);
    } else if constexpr (kKept == Kept::code) {
      Pack<uint8_t, P> codes{};
      const auto encode = [&] {
        FASTLIF_UNROLL
        for (int i = 0; i < P; ++i) codes.add_byte(i, unsigned(level(c[i], h.at[i])) | (s[i] ? 128u : 0u));
      };
      knowing_scale(c[0], encode);
      store(row, codes);
    } else {
      unsigned bits = packed(s);
      if (o.keep == Keep::bits) {
        FASTLIF_UNROLL
        for (int i = 0; i < P; ++i) bits |= magnitude(F(h.at[i] - c[i].threshold)) < c[i].scale ? 256u << i : 0u;
      }
      bits = in_byte<P>(bits, first);
      store_byte<P>(row, bits, first);
      if (o.keep == Keep::bits) store_byte<P>(row + plane, bits >> 8, first);
    }
  }

  template <class Known>
  static FASTLIF_INLINE void forward_loop(const Launch<Forward, F>& l, const Each& c,
                                          const Affine<F, P, kNorm>& normalized, int64_t first) {
    const Forward& p = l.problem;
    const Options o = Known::of(p.options);
    const bool rows = kKept == Kept::bits    ? o.keep != Keep::nothing
                      : kKept == Kept::input ? kNorm == Norm::none && l.tail > 0
                                             : true;
    const bool borders = kKept == Kept::input && (kNorm == Norm::none || o.keep == Keep::input);
    const int64_t plane = (p.neurons + 7) / 8;
    Membrane v = vector(p.v0, first);
    const char* x = reinterpret_cast<const char*>(static_cast<const X*>(p.x) + first);
    char* spikes = reinterpret_cast<char*>(static_cast<S*>(p.spikes) + first);
    uint8_t* bits = p.bits + first / 8;
    uint8_t* row = p.state + p.layout.rows_at + place(first);
    F* border = reinterpret_cast<F*>(p.state) + first;
    const bool whole = kLean || l.tail == 0;
    int stop = whole || l.cut > l.steps ? l.steps : l.cut;  // of the window that t is in, and its first step with a row
    int kept_from = whole || stop < l.tail ? 0 : stop - l.tail, border_at = whole ? kChunkSteps : kept_from;
    In ahead[kAhead];
    FASTLIF_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (i < l.steps) ahead[i] = load<In>(x + i * l.in_step);
    x += kAhead * l.in_step;
    for (int base = 0; base < l.steps; base += kAhead) {
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int t = base + i;
        if (t >= l.steps) break;
        const In in = ahead[i];
        if (t + kAhead < l.steps) ahead[i] = load<In>(x);
        x += l.in_step;
        if (!kLean && t == stop) {
          stop = l.steps - t < l.cut ? l.steps : t + l.cut;
          kept_from = stop - t < l.tail ? t : stop - l.tail;
          border_at = kept_from;
        }
        if (borders && (!kLean || i == 0) && t == border_at) {
          store(border, v);
          border += p.neurons;
          border_at += kChunkSteps;
        }
        Membrane current = normalized(widen<F>(in));
        drive(c, current);
        Membrane h, out;
        bool s[P];
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) {
          h.at[k] = charge(o, c[k], v.at[k], [&] { return fire(c[k], v.at[k]); }, current.at[k]);
          s[k] = fire(c[k], h.at[k]);
          v.at[k] = reset(o, c[k], h.at[k], s[k]);
          out.at[k] = !o.spiking ? h.at[k] : s[k] ? F(1) : F(0);
        }
        store(spikes, narrow<S>(out));
        spikes += l.out_step;
        if (p.bits) {
          store_byte<P>(bits, in_byte<P>(packed(s), first), first);
          bits += plane;
        }
        if (rows && (kLean || t >= kept_from)) {
          store_row(o, c, in, h, s, row, plane, first);
          row += p.layout.row_bytes;
        }
      }
    }
    store_vector(p.v, first, v);
  }

  // A thread past the end does the last one's work again: all of a warp must be there to put their bits together.
  static FASTLIF_INLINE void forward(const Launch<Forward, F>& l, int64_t first) {
    if (first >= l.problem.neurons) first = l.problem.neurons - P;
    const Each c(l.problem, l.constants, first);
    const Affine<F, P, kNorm> normalized(Channels<F, P, kNorm>(l.problem.scale, first), l.problem);
    if constexpr (kLean) {
      switch (l.problem.options.reset) {
        case Reset::none: return forward_loop<Only<Reset::none>>(l, c, normalized, first);
        case Reset::soft: return forward_loop<Only<Reset::soft>>(l, c, normalized, first);
        case Reset::delayed: return forward_loop<Only<Reset::delayed>>(l, c, normalized, first);
        default: return forward_loop<Only<Reset::hard>>(l, c, normalized, first);
      }
    } else {
      forward_loop<Any>(l, c, normalized, first);
    }
  }
};

}  // namespace fastlif::gpu
