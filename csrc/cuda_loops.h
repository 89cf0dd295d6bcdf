// What one thread of a GPU does: the time loops over its P neurons, one 16-byte access of x a step. Compiled for the host
// too (twin.cpp), where the tests run it.
//
// To reach a GPU's bandwidth, an SM must have some 32 KB under way: H100's 3.4 TB/s over 132 SMs times about 1 us. A thread
// keeps kAhead steps' loads of 16 bytes under way, so 512 threads an SM are enough.
#pragma once

#include "cuda_memory.h"
#include "state.h"

namespace fastlif::gpu {

constexpr int kAhead = 4;

// What a kernel gets: the problem, its numbers in the membrane's type, and what would take divisions to find out.
template <class Problem, class F>
struct Launch {
  Problem problem;
  Constants<F> constants;
  int64_t last_window;  // the first step of the last window of `cut` steps
  int64_t rows, borders;
};

// Options known when a loop is compiled, or only when it runs.
template <Reset kReset, bool kDetach>
struct Only {
  static FASTLIF_INLINE Options of(Options o) {
    o.reset = kReset;
    o.detach_reset = kDetach;
    return o;
  }
};
struct Any {
  static FASTLIF_INLINE Options of(const Options& o) { return o; }
};

// Which of the two kinds of loop over backward's steps a format needs, and the format if it is one.
enum class Kept { bits, code, input };  // bits: Keep::nothing, spikes and bits

// F: the type of the arithmetic, X: of the input, S: of the spikes. kLean: the P neurons have the same numbers, and no
// gradient but gx and gv0 is asked for.
template <class F, class X, class S, int P, bool kLean>
struct Thread {
  using In = Pack<X, P>;
  using Spikes = Pack<S, P>;
  using Membrane = Pack<F, P>;

  static FASTLIF_INLINE F element(const Param& param, int64_t n) {
    const F* data = static_cast<const F*>(param.data);
    if (param.size == 1) return *data;
    if (((n | param.inner | param.size) >> 32) == 0) return data[uint32_t(n) / uint32_t(param.inner) % uint32_t(param.size)];
    return data[n / param.inner % param.size];
  }

  // The numbers of the thread's neurons.
  struct Numbers {
    Constants<F> each[kLean ? 1 : P];

    FASTLIF_INLINE Numbers(const Problem& p, const Constants<F>& all, int64_t first, bool here) {
      FASTLIF_UNROLL
      for (int i = 0; i < (kLean ? 1 : P); ++i) {
        Constants<F>& c = each[i];
        c = all;
        if (here && p.params[0].data) c.decay = element(p.params[0], first + i);
        if (here && p.params[1].data) c.gain = element(p.params[1], first + i);
        if (here && p.params[2].data) {
          c.threshold = element(p.params[2], first + i);
          if (p.options.tied) c.amount = c.threshold;
          if (p.options.fire_on_equal) c.equal = c.threshold;
        }
      }
    }
    FASTLIF_INLINE const Constants<F>& operator[](int i) const { return each[kLean ? 0 : i]; }
  };

  // P numbers of a vector [N]; zeros where there is none.
  static FASTLIF_INLINE Membrane vector(const void* from, int64_t first, bool here) {
    Membrane m{};
    if (from && here) m = load(reinterpret_cast<const Membrane*>(static_cast<const F*>(from) + first));
    return m;
  }
  static FASTLIF_INLINE void store_vector(void* to, int64_t first, const Membrane& m) {
    if (to) store(reinterpret_cast<Membrane*>(static_cast<F*>(to) + first), m);
  }

  // Bytes from a row's start to what the row holds of the thread's neurons.
  static FASTLIF_INLINE int64_t place(Keep keep, int64_t first) {
    return keep == Keep::input ? first * int64_t(sizeof(X)) : keep == Keep::code ? first : first / 8;
  }

  static FASTLIF_INLINE void store_row(const Options& o, const Numbers& c, const In& in, const Membrane& h,
                                       const bool (&s)[P], uint8_t* row, int64_t plane, int64_t first, bool here) {
    if (o.keep == Keep::input) {
      if (here) store(reinterpret_cast<In*>(row), in);
    } else if (o.keep == Keep::code) {
      Pack<uint8_t, P> codes;
      FASTLIF_UNROLL
      for (int i = 0; i < P; ++i) codes.at[i] = uint8_t(int(level(c[i], h.at[i])) | (s[i] ? 128 : 0));
      if (here) store(reinterpret_cast<Pack<uint8_t, P>*>(row), codes);
    } else {
      unsigned bits = 0;
      FASTLIF_UNROLL
      for (int i = 0; i < P; ++i) bits |= s[i] ? 1u << i : 0u;
      if (o.keep == Keep::bits) {
        FASTLIF_UNROLL
        for (int i = 0; i < P; ++i) bits |= magnitude(F(h.at[i] - c[i].threshold)) < c[i].scale ? 256u << i : 0u;
      }
      bits = in_byte<P>(bits, first);
      store_byte<P>(row, bits, first, here);
      if (o.keep == Keep::bits) store_byte<P>(row + plane, bits >> 8, first, here);
    }
  }

  template <class Known>
  static FASTLIF_INLINE void forward_loop(const Launch<Forward, F>& l, const Numbers& c, int64_t first, bool here) {
    const Forward& p = l.problem;
    const Options o = Known::of(p.options);
    const Schedule& schedule = p.schedule;
    const int64_t steps = schedule.steps, plane = (p.neurons + 7) / 8;
    Membrane v = vector(p.v0, first, here);
    const X* x = static_cast<const X*>(p.x) + first;
    S* spikes = static_cast<S*>(p.spikes) + first;
    const bool rows = p.layout.row_bytes > 0, whole = schedule.whole();
    uint8_t* row = p.state + p.layout.rows_at + place(o.keep, first);
    F* border = reinterpret_cast<F*>(p.state) + first;
    int64_t kept_from = 0, stop = steps, border_at = kChunk;  // of the window that t is in
    if (!whole) {
      schedule.window(0, kept_from, stop);
      border_at = kept_from;
    }
    In ahead[kAhead] = {};
    FASTLIF_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (here && i < steps) ahead[i] = load(reinterpret_cast<const In*>(x + i * p.x_stride));
    x += kAhead * p.x_stride;
    for (int64_t base = 0; base < steps; base += kAhead) {
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int64_t t = base + i;
        if (t >= steps) break;
        const In in = ahead[i];
        if (here && t + kAhead < steps) ahead[i] = load(reinterpret_cast<const In*>(x));
        x += p.x_stride;
        if (t == stop) {
          stop = t + schedule.cut < steps ? t + schedule.cut : steps;
          kept_from = stop - schedule.tail > t ? stop - schedule.tail : t;
          border_at = kept_from;
        }
        if (o.keep == Keep::input && t == border_at) {
          if (here) store(reinterpret_cast<Membrane*>(border), v);
          border += p.neurons;
          border_at += kChunk;
        }
        const Membrane current = widen<F>(in);
        Membrane h, out;
        bool s[P];
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) {
          h.at[k] = charge(o, c[k], v.at[k], current.at[k]);
          s[k] = fire(c[k], h.at[k]);
          v.at[k] = reset(o, c[k], h.at[k], s[k]);
          out.at[k] = !o.spiking ? h.at[k] : s[k] ? F(1) : F(0);
        }
        if (here) store(reinterpret_cast<Spikes*>(spikes), narrow<S>(out));
        spikes += p.neurons;
        if (rows && t >= kept_from) {
          store_row(o, c, in, h, s, row, plane, first, here);
          row += p.layout.row_bytes;
        }
      }
    }
    if (here) store_vector(p.v, first, v);
  }

  static FASTLIF_INLINE void forward(const Launch<Forward, F>& l, int64_t first) {
    const bool here = first < l.problem.neurons;  // all threads of a warp stay to the end: they share bytes
    const Numbers c(l.problem, l.constants, first, here);
    if constexpr (kLean) {
      switch (l.problem.options.reset) {
        case Reset::none: return forward_loop<Only<Reset::none, false>>(l, c, first, here);
        case Reset::soft: return forward_loop<Only<Reset::soft, false>>(l, c, first, here);
        case Reset::delayed: return forward_loop<Only<Reset::delayed, false>>(l, c, first, here);
        default: return forward_loop<Only<Reset::hard, false>>(l, c, first, here);
      }
    } else {
      forward_loop<Any>(l, c, first, here);
    }
  }

  // Backward over all steps in reverse; `Known` options, `kKept` formats.
  template <class Known, Kept kKept>
  struct Reverse {
    const Backward& p;
    const Options o;
    const int64_t first;
    const Numbers& c;
    const Scratch<F, P>& scratch;
    Carried<F> carried[P];
    int64_t row, border, cut_at;  // the rows and borders not yet used; the next step from which no gradient flows back
    X* gx;
    const S* gs;

    FASTLIF_INLINE Reverse(const Launch<Backward, F>& l, const Numbers& c, int64_t first, const Scratch<F, P>& scratch)
        : p(l.problem), o(Known::of(l.problem.options)), first(first), c(c), scratch(scratch), row(l.rows), border(l.borders) {
      const Membrane g = vector(p.gv, first, true);
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k] = {g.at[k], 0, 0, 0};
      const Schedule& schedule = p.schedule;
      const int64_t steps = schedule.steps, cut = schedule.cut;
      cut_at = cut == 0 ? -1 : l.last_window + cut == steps ? steps - 1 : l.last_window - 1;
      if (steps == 0) return;
      gx = static_cast<X*>(p.gx) + (steps - 1) * p.neurons + first;
      const bool whole = schedule.whole();
      for (int64_t start = whole ? 0 : l.last_window, stop = steps;; stop = start, start -= cut) {
        const int64_t from = !whole && stop - schedule.tail > start ? stop - schedule.tail : start;
        gs = static_cast<const S*>(p.gs) + (stop - 1) * p.gs_stride + first;
        Membrane border_v{};
        if constexpr (kKept == Kept::input) {
          for (int64_t end = stop; end > from;) {
            const int64_t begin = from + (end - from - 1) / kChunk * kChunk;
            border_v = chunk(begin, int(end - begin));
            end = begin;
          }
        } else {
          span(from, stop);
        }
        if (from > start || start == 0) before(border_v);
        for (int64_t t = start; t < from; ++t, gx -= p.neurons) store(reinterpret_cast<In*>(gx), In{});
        if (start == 0) break;
      }
    }

    // Past the first step that carries gradient.
    FASTLIF_INLINE void before(Membrane v) {
      if (o.reset == Reset::delayed) {
        if (kKept != Kept::input) v = vector(p.v0, first, true);
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) backward_before(o, c[k], v.at[k], carried[k]);
      }
      if (p.schedule.whole()) return;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].g = 0;
    }

    FASTLIF_INLINE void fetch(Spikes& into) {
      if (p.gs) into = load(reinterpret_cast<const Spikes*>(gs));
      gs -= p.gs_stride;
    }

    // One step from what is known of it; gh, [P].
    FASTLIF_INLINE Membrane step(int64_t t, const bool (&s)[P], const Membrane& sg, const Membrane& h, const Spikes& spikes) {
      const bool last = t == p.schedule.steps - 1, cut = t == cut_at, delayed = o.reset == Reset::delayed;
      if (cut) cut_at -= p.schedule.cut;
      const Membrane arrived = widen<F>(spikes);
      if (!delayed && cut && !last) {
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) carried[k].g = 0;
      }
      Membrane gh, out;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        gh.at[k] = gpu::backward(o, c[k], s[k], sg.at[k], h.at[k], arrived.at[k], last, delayed && cut,
                            !kLean && p.gthreshold != nullptr, carried[k]);
        out.at[k] = c[k].gain * gh.at[k];
      }
      store(reinterpret_cast<In*>(gx), narrow<X>(out));
      gx -= p.neurons;
      return gh;
    }

    struct Row {
      uint8_t fired, inside;
      Pack<uint8_t, P> codes;
    };

    FASTLIF_INLINE void fetch(Row& into) {
      --row;
      const uint8_t* at = p.state + row * p.layout.row_bytes + place(o.keep, first);
      if (kKept == Kept::code) {
        into.codes = load(reinterpret_cast<const Pack<uint8_t, P>*>(at));
      } else {
        into.fired = o.keep == Keep::nothing ? 0 : load(at);
        into.inside = o.keep == Keep::bits ? load(at + (p.neurons + 7) / 8) : 255;
      }
    }

    FASTLIF_INLINE void decode(const Row& row, bool (&s)[P], Membrane& sg, Membrane& h) const {
      const unsigned shift = unsigned(first) % 8, fired = row.fired >> shift, inside = row.inside >> shift;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        if constexpr (kKept == Kept::code) {
          s[k] = row.codes.at[k] >= 128;
          from_level(o, c[k], F(row.codes.at[k] & 127), s[k], sg.at[k], h.at[k]);
        } else {
          s[k] = fired >> k & 1;
          sg.at[k] = inside >> k & 1 ? c[k].height : F(0);
        }
      }
    }

    // Steps stop-1 ... from, which are in the state's rows.
    FASTLIF_INLINE void span(int64_t from, int64_t stop) {
      Spikes spikes[kAhead] = {};
      Row rows[kAhead];
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (stop - i <= from) break;
        fetch(spikes[i]);
        fetch(rows[i]);
      }
      for (int64_t base = stop - 1; base >= from; base -= kAhead) {
        FASTLIF_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          const int64_t t = base - i;
          if (t < from) break;
          const Spikes arrived = spikes[i];
          const Row kept = rows[i];
          if (t - kAhead >= from) {
            fetch(spikes[i]);
            fetch(rows[i]);
          }
          bool s[P];
          Membrane sg, h{};
          decode(kept, s, sg, h);
          step(t, s, sg, h, arrived);
        }
      }
    }

    // Steps begin+count-1 ... begin: h from x and the membrane before them, into the scratch, then back. That membrane.
    FASTLIF_INLINE Membrane chunk(int64_t begin, int count) {
      Spikes spikes[kAhead] = {};
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (i < count) fetch(spikes[i]);
      row -= count;
      const bool at_v0 = p.schedule.whole() && begin == 0;
      if (!at_v0) --border;
      const Membrane v0 = vector(at_v0 ? p.v0 : reinterpret_cast<const F*>(p.state) + border * p.neurons, first, true);
      const int64_t stride = p.x ? p.x_stride : p.neurons;
      const X* x = (p.x ? static_cast<const X*>(p.x) + begin * stride
                        : reinterpret_cast<const X*>(p.state + p.layout.rows_at) + row * stride) + first;
      recompute(v0, x, stride, count);
      x += (count - 1) * stride;
      for (int base = count - 1; base >= 0; base -= kAhead) {
        FASTLIF_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          const int t = base - i;
          if (t < 0) break;
          const Spikes arrived = spikes[i];
          if (t >= kAhead) fetch(spikes[i]);
          const Membrane h = scratch.get(t);
          bool s[P];
          Membrane sg;
          FASTLIF_UNROLL
          for (int k = 0; k < P; ++k) {
            s[k] = fire(c[k], h.at[k]);
            sg.at[k] = surrogate(o, c[k], F(h.at[k] - c[k].threshold));
          }
          const Membrane gh = step(begin + t, s, sg, h, arrived);
          if constexpr (!kLean) sum(gh, t, v0, x);
          x -= stride;
        }
      }
      return v0;
    }

    FASTLIF_INLINE void recompute(Membrane v, const X* x, int64_t stride, int count) {
      In ahead[kAhead];
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (i < count) ahead[i] = load(reinterpret_cast<const In*>(x + i * stride));
      x += kAhead * stride;
      for (int base = 0; base < count; base += kAhead) {
        FASTLIF_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          const int t = base + i;
          if (t >= count) break;
          const Membrane current = widen<F>(ahead[i]);
          if (t + kAhead < count) ahead[i] = load(reinterpret_cast<const In*>(x));
          x += stride;
          Membrane h;
          FASTLIF_UNROLL
          for (int k = 0; k < P; ++k) {
            h.at[k] = charge(o, c[k], v.at[k], current.at[k]);
            v.at[k] = reset(o, c[k], h.at[k], fire(c[k], h.at[k]));
          }
          scratch.put(t, h);
        }
      }
    }

    FASTLIF_INLINE void sum(const Membrane& gh, int t, const Membrane& v0, const X* x) {
      if (p.ggain) {
        const Membrane current = widen<F>(load(reinterpret_cast<const In*>(x)));
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) carried[k].gain = carried[k].gain + gh.at[k] * current.at[k];
      }
      if (p.gdecay) {
        Membrane v = v0;
        if (t > 0) {
          const Membrane h = scratch.get(t - 1);
          FASTLIF_UNROLL
          for (int k = 0; k < P; ++k) v.at[k] = reset(o, c[k], h.at[k], fire(c[k], h.at[k]));
        }
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) carried[k].decay = carried[k].decay + gh.at[k] * v.at[k];
      }
    }

    FASTLIF_INLINE void finish() const {
      Membrane g, gdecay, ggain, gthreshold;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        g.at[k] = carried[k].g;
        gdecay.at[k] = carried[k].decay;
        ggain.at[k] = carried[k].gain;
        gthreshold.at[k] = carried[k].threshold;
      }
      store_vector(p.gv0, first, g);
      if (kLean) return;
      store_vector(p.gdecay, first, gdecay);
      store_vector(p.ggain, first, ggain);
      store_vector(p.gthreshold, first, gthreshold);
    }
  };

  template <class Known, Kept kKept>
  static FASTLIF_INLINE void backward_loop(const Launch<Backward, F>& l, const Numbers& c, int64_t first,
                                           const Scratch<F, P>& scratch) {
    Reverse<Known, kKept>(l, c, first, scratch).finish();
  }

  template <Kept kKept>
  static FASTLIF_INLINE void backward(const Launch<Backward, F>& l, int64_t first, const Scratch<F, P>& scratch) {
    if (first >= l.problem.neurons) return;
    const Numbers c(l.problem, l.constants, first, true);
    if constexpr (kLean) {
      const bool detach = l.problem.options.detach_reset;
      switch (l.problem.options.reset) {
        case Reset::none: return backward_loop<Only<Reset::none, false>, kKept>(l, c, first, scratch);
        case Reset::soft:
          if (detach) return backward_loop<Only<Reset::soft, true>, kKept>(l, c, first, scratch);
          return backward_loop<Only<Reset::soft, false>, kKept>(l, c, first, scratch);
        case Reset::delayed:
          if (detach) return backward_loop<Only<Reset::delayed, true>, kKept>(l, c, first, scratch);
          return backward_loop<Only<Reset::delayed, false>, kKept>(l, c, first, scratch);
        default:
          if (detach || kKept == Kept::bits) return backward_loop<Only<Reset::hard, true>, kKept>(l, c, first, scratch);
          return backward_loop<Only<Reset::hard, false>, kKept>(l, c, first, scratch);
      }
    } else {
      backward_loop<Any, kKept>(l, c, first, scratch);
    }
  }
};

}  // namespace fastlif::gpu
