// Backward, as one thread of a GPU does it: all steps in reverse, with what has to be carried along in registers.
#pragma once

#include "cuda_loops.h"

namespace fastlif::gpu {

template <class F, class X, class S, int P, bool kLean, Kept kKept, class Known>
class Reverse {
  using T = Thread<F, X, S, P, kLean, kKept>;
  using In = typename T::In;
  using Spikes = typename T::Spikes;
  using Membrane = typename T::Membrane;
  using Each = typename T::Each;
  using Shared = Scratch<F, X, S, P, kChunkSteps>;

 public:
  FASTLIF_INLINE Reverse(const Launch<Backward, F>& l, const Each& c, int64_t first, const Shared& scratch)
      : l(l), p(l.problem), o(Known::of(l.problem.options)), c(c), first(first), scratch(scratch), border(l.borders) {
    gx = reinterpret_cast<char*>(static_cast<X*>(p.gx) + first) + (l.steps - 1) * l.out_step;
    row = p.state + p.layout.rows_at + l.rows * p.layout.row_bytes + T::place(first);
    cut_at = l.cut == 0 ? -1 : l.steps - l.last_window == l.cut ? l.steps - 1 : l.last_window - 1;
    const Membrane g = T::vector(p.gv, first);
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) carried[k] = {g.at[k], 0, 0, 0};
  }

  FASTLIF_INLINE void run() {
    if (l.steps == 0) return;
    if (kLean || l.tail == 0) before(steps(0, l.steps));
    else in_windows();
  }

  FASTLIF_INLINE void in_windows() {
    for (int start = l.last_window, stop = l.steps;; stop = start, start -= l.cut) {
      const int from = stop - start > l.tail ? stop - l.tail : start;
      const Membrane v = steps(from, stop);
      if (from > start || start == 0) {
        before(v);
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) carried[k].g = 0;
      }
      for (int t = start; t < from; ++t, gx -= l.out_step) store(gx, In{});
      if (start == 0) return;
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
    T::store_vector(p.gv0, first, g);
    if (kLean) return;
    T::store_vector(p.gdecay, first, gdecay);
    T::store_vector(p.ggain, first, ggain);
    T::store_vector(p.gthreshold, first, gthreshold);
  }

 private:
  const Launch<Backward, F>& l;
  const Backward& p;
  const Options o;
  const Each& c;
  const int64_t first;
  const Shared& scratch;
  Carried<F> carried[P];
  int64_t border;      // rows of borders not yet used
  const uint8_t* row;  // past the rows not yet used
  const char* gs;      // of the next step to fetch
  char* gx;            // of the next step to write
  int cut_at;          // the next step from which no gradient flows back

  // Past the first step that carries gradient, whose membrane before it is v.
  FASTLIF_INLINE void before(const Membrane& v) {
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) backward_before(o, c[k], v.at[k], carried[k]);
  }

  // Steps stop-1 ... from; the membrane before them.
  FASTLIF_INLINE Membrane steps(int from, int stop) {
    gs = reinterpret_cast<const char*>(static_cast<const S*>(p.gs) + first) + (stop - 1) * l.in_step;
    if constexpr (kKept == Kept::input) {
      for (int begin = from + (stop - from - 1) / kChunkSteps * kChunkSteps;; begin -= kChunkSteps) {
        const Membrane v = chunk(begin, stop - begin < kChunkSteps ? stop - begin : kChunkSteps);
        if (begin == from) return v;
      }
    } else {
      from_rows(from, stop);
      return T::vector(p.v0, first);
    }
  }

  FASTLIF_INLINE void fetch(Spikes& into) {
    if (kLean || p.gs) into = load<Spikes>(gs);
    gs -= l.in_step;
  }

  // One step back from what is known of it; gh.
  FASTLIF_INLINE Membrane step(int t, const bool (&s)[P], const Membrane& sg, const Membrane& h, const Spikes& spikes) {
    const bool last = t == l.steps - 1, cut = t == cut_at, delayed = o.reset == Reset::delayed;
    if (cut) cut_at -= l.cut;
    if (!delayed && cut && !last) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].g = 0;
    }
    const Membrane arrived = widen<F>(spikes);
    Membrane gh, out;
    const auto all = [&](const Options& known) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        gh.at[k] = gpu::backward(known, c[k], s[k], sg.at[k], h.at[k], arrived.at[k], !delayed || last, cut,
                                 !kLean && p.gthreshold != nullptr, carried[k]);
        out.at[k] = c[k].gain * gh.at[k];
      }
    };
    Options known = o;  // asked once, not for each neuron
    known.detach_reset = true;
    if (o.detach_reset || (kKept == Kept::bits && o.reset == Reset::hard)) {
      all(known);
    } else {
      known.detach_reset = false;
      all(known);
    }
    store(gx, narrow<X>(out));
    gx -= l.out_step;
    return gh;
  }

  struct Row {
    uint8_t fired, inside;
    Pack<uint8_t, P> codes;
  };

  FASTLIF_INLINE void fetch(Row& into) {
    row -= p.layout.row_bytes;
    if constexpr (kKept == Kept::code) {
      into.codes = load<Pack<uint8_t, P>>(row);
    } else {
      if (o.keep != Keep::nothing) into.fired = load<uint8_t>(row);
      if (o.keep == Keep::bits) into.inside = load<uint8_t>(row + (p.neurons + 7) / 8);
    }
  }

  FASTLIF_INLINE void decode(const Row& row, bool (&s)[P], Membrane& sg, Membrane& h) const {
    const unsigned shift = unsigned(first) % 8, fired = row.fired >> shift, inside = row.inside >> shift;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) {
      if constexpr (kKept == Kept::code) {
        s[k] = row.codes.byte(k) >= 128;
        from_level(o, c[k], F(row.codes.byte(k) & 127), s[k], sg.at[k], h.at[k]);
      } else {
        s[k] = fired >> k & 1;
        sg.at[k] = inside >> k & 1 ? c[k].height : F(0);
      }
    }
  }

  FASTLIF_INLINE void from_rows(int from, int stop) {
    Spikes spikes[kAhead] = {};
    Row rows[kAhead];
    FASTLIF_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      rows[i] = {0, 255, {}};
      if (stop - i <= from) continue;
      fetch(spikes[i]);
      fetch(rows[i]);
    }
    for (int base = stop - 1; base >= from; base -= kAhead) {
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int t = base - i;
        if (t < from) break;
        const Spikes arrived = spikes[i];
        bool s[P];
        Membrane sg, h{};
        decode(rows[i], s, sg, h);
        if (t - kAhead >= from) {
          fetch(spikes[i]);
          fetch(rows[i]);
        }
        step(t, s, sg, h, arrived);
      }
    }
  }

  template <Surrogate kKind>
  FASTLIF_INLINE Membrane slopes_of(const Membrane& h) const {
    Options known = o;
    known.surrogate = kKind;
    Membrane sg;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) sg.at[k] = surrogate(known, c[k], F(h.at[k] - c[k].threshold));
    return sg;
  }

  // The surrogate derivatives, which one it is asked once and not for each neuron.
  FASTLIF_INLINE Membrane slopes(const Membrane& h) const {
    switch (o.surrogate) {
      case Surrogate::triangle:
        return c[0].inverse != 0 ? slopes_of<Surrogate::triangle>(h) : slopes_of<Surrogate::triangle>(h);
      case Surrogate::rectangle: return slopes_of<Surrogate::rectangle>(h);
      case Surrogate::pass_through: return slopes_of<Surrogate::pass_through>(h);
      case Surrogate::sigmoid: return slopes_of<Surrogate::sigmoid>(h);
      case Surrogate::atan: return slopes_of<Surrogate::atan>(h);
      default: return slopes_of<Surrogate::fast_sigmoid>(h);
    }
  }

  // Steps begin+count-1 ... begin: h from x and the membrane before them, then back. That membrane.
  FASTLIF_INLINE Membrane chunk(int begin, int count) {
    row -= count * p.layout.row_bytes;
    const bool at_v0 = begin == 0 && (kLean || l.tail == 0);
    if (!at_v0) --border;
    const int64_t x_step = p.x ? p.x_stride * int64_t(sizeof(X)) : p.layout.row_bytes;
    const char* x = p.x ? reinterpret_cast<const char*>(static_cast<const X*>(p.x) + first) + begin * x_step
                        : reinterpret_cast<const char*>(row);
    FASTLIF_ROLLED
    for (int t = 0; t < count; ++t, x += x_step) copy_ahead<In>(scratch.h_at(t), x);
    if (kLean || p.gs) {
      FASTLIF_ROLLED
      for (int t = count - 1; t >= 0; --t, gs -= l.in_step) copy_ahead<Spikes>(scratch.gs_at(t), gs);
    }
    const Membrane v0 = T::vector(at_v0 ? p.v0 : reinterpret_cast<const F*>(p.state) + border * p.neurons, first);
    wait_for_copies();
    Membrane v = v0;
    FASTLIF_ROLLED
    for (int t = 0; t < count; ++t) {
      const Membrane current = widen<F>(scratch.template get<In>(scratch.h_at(t)));
      Membrane h;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        h.at[k] = charge(o, c[k], v.at[k], current.at[k]);
        v.at[k] = reset(o, c[k], h.at[k], fire(c[k], h.at[k]));
      }
      scratch.put_h(t, h);
    }
    FASTLIF_ROLLED
    for (int t = count - 1; t >= 0; --t) {
      const Membrane h = scratch.get_h(t);
      const Spikes arrived = kLean || p.gs ? scratch.template get<Spikes>(scratch.gs_at(t)) : Spikes{};
      bool s[P];
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) s[k] = fire(c[k], h.at[k]);
      const Membrane gh = step(begin + t, s, slopes(h), h, arrived);
      if constexpr (!kLean) {
        x -= x_step;
        sum(gh, t, v0, x);
      }
    }
    return v0;
  }

  // Adds step t of the chunk that v0 comes before to the gradients of gain and decay.
  FASTLIF_INLINE void sum(const Membrane& gh, int t, const Membrane& v0, const char* x) {
    if (p.ggain) {
      const Membrane current = widen<F>(load<In>(x));
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].gain = carried[k].gain + gh.at[k] * current.at[k];
    }
    if (p.gdecay) {
      Membrane v = v0;
      if (t > 0) {
        const Membrane h = scratch.get_h(t - 1);
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) v.at[k] = reset(o, c[k], h.at[k], fire(c[k], h.at[k]));
      }
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].decay = carried[k].decay + gh.at[k] * v.at[k];
    }
  }
};

template <class F, class X, class S, int P, bool kLean, Kept kKept>
FASTLIF_INLINE void reverse(const Launch<Backward, F>& l, int64_t first,
                            const Scratch<F, X, S, P, kChunkSteps>& scratch) {
  if (first >= l.problem.neurons) return;
  const typename Thread<F, X, S, P, kLean, kKept>::Each c(l.problem, l.constants, first);
  const auto as = [&]<class Known>(Known) {
    Reverse<F, X, S, P, kLean, kKept, Known> steps(l, c, first, scratch);
    steps.run();
    steps.finish();
  };
  if constexpr (kLean) {
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
