// Backward, as one thread of a GPU does it: one step, with what has to be carried along in registers, and the steps
// whose spikes or codes were kept. cuda_recompute.h has those whose input was.
#pragma once

#include "cuda_scratch.h"

namespace fastlif::gpu {

template <class T, class Known>
class Back {
 protected:
  using F = typename T::F;
  using X = typename T::X;
  using S = typename T::S;
  using In = typename T::In;
  using Spikes = typename T::Spikes;
  using Membrane = typename T::Membrane;
  using Each = typename T::Each;
  static constexpr int P = T::P;

  const Launch<Backward, F>& l;
  const Backward& p;
  const Options o;
  const Each& c;
  const int64_t first;
  Carried<F> carried[P];
  const char* gs;  // of the next step to fetch
  char* gx;        // of the next step to write
  int cut_at;      // the next step from which no gradient flows back

  FASTLIF_INLINE Back(const Launch<Backward, F>& l, const Each& c, int64_t first)
      : l(l), p(l.problem), o(Known::of(l.problem.options)), c(c), first(first) {
    gx = reinterpret_cast<char*>(static_cast<X*>(p.gx) + first) + (l.steps - 1) * l.out_step;
    cut_at = l.cut == 0 ? -1 : l.steps - l.last_window == l.cut ? l.steps - 1 : l.last_window - 1;
    const Membrane g = T::vector(p.gv, first);
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) carried[k] = {g.at[k], 0, 0, 0};
  }

  FASTLIF_INLINE void start_at(int stop) {
    gs = reinterpret_cast<const char*>(static_cast<const S*>(p.gs) + first) + (stop - 1) * l.in_step;
  }

  // One step back from what is known of it: gh, and dL/dx.
  FASTLIF_INLINE Membrane step(int t, const bool (&s)[P], const Membrane& sg, const Membrane& h, const Spikes& spikes,
                               Membrane& out) {
    const bool last = t == l.steps - 1, cut = t == cut_at, delayed = o.reset == Reset::delayed;
    if (cut) cut_at -= l.cut;
    if (!delayed && cut && !last) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].g = 0;
    }
    const Membrane arrived = widen<F>(spikes);
    Membrane gh;
    const auto all = [&](const Options& known) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        gh.at[k] = gpu::backward(known, c[k], s[k], sg.at[k], h.at[k], arrived.at[k], !delayed || last, cut,
                                 !T::kLean && p.gthreshold != nullptr, carried[k]);
      }
    };
    Options known = o;  // asked once, not for each neuron
    known.detach_reset = true;
    if (o.detach_reset || (T::kKept == Kept::bits && o.reset == Reset::hard)) {
      all(known);
    } else {
      known.detach_reset = false;
      all(known);
    }
    out = gh;
    T::drive(c, out);
    return gh;
  }

  FASTLIF_INLINE void write(const Membrane& out) {
    store(gx, narrow<X>(out));
    gx -= l.out_step;
  }

  // Steps before `from` down to `start`, which carry no gradient.
  FASTLIF_INLINE void skip(int start, int from) {
    for (int t = start; t < from; ++t) write({});
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
    if (T::kLean) return;
    T::store_vector(p.gdecay, first, gdecay);
    T::store_vector(p.ggain, first, ggain);
    T::store_vector(p.gthreshold, first, gthreshold);
  }
};

// With Kept::bits and Kept::code.
template <class T, class Known>
class FromRows : protected Back<T, Known> {
  using Base = Back<T, Known>;

 protected:
  using Base::c;
  using Base::first;
  using Base::gs;
  using Base::l;
  using Base::o;
  using Base::P;
  using Base::p;
  using typename Base::F;
  using typename Base::Membrane;
  using typename Base::Spikes;

  const uint8_t* row;  // past the rows not yet used

  FASTLIF_INLINE FromRows(const Launch<Backward, F>& l, const typename Base::Each& c, int64_t first,
                          const ScratchOf<T>&)
      : Base(l, c, first), row(p.state + p.layout.rows_at + l.rows * p.layout.row_bytes + T::place(first)) {}

  // Steps stop-1 ... from; the membrane before them.
  FASTLIF_INLINE Membrane steps(int from, int stop) {
    this->start_at(stop);
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
        Membrane sg, h{}, gx;
        decode(rows[i], s, sg, h);
        if (t - kAhead >= from) {
          fetch(spikes[i]);
          fetch(rows[i]);
        }
        this->step(t, s, sg, h, arrived, gx);
        this->write(gx);
      }
    }
    return T::vector(p.v0, first);
  }

 private:
  struct Row {
    uint8_t fired, inside;
    Pack<uint8_t, P> codes;
  };

  FASTLIF_INLINE void fetch(Spikes& into) {
    if (T::kLean || p.gs) into = load<Spikes>(gs);
    gs -= l.in_step;
  }

  FASTLIF_INLINE void fetch(Row& into) {
    row -= p.layout.row_bytes;
    if constexpr (T::kKept == Kept::code) {
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
      if constexpr (T::kKept == Kept::code) {
        s[k] = row.codes.byte(k) >= 128;
        from_level(o, c[k], F(row.codes.byte(k) & 127), s[k], sg.at[k], h.at[k]);
      } else {
        s[k] = fired >> k & 1;
        sg.at[k] = inside >> k & 1 ? c[k].height : F(0);
      }
    }
  }
};

}  // namespace fastlif::gpu
