// Backward where the input was kept: chunk by chunk, the membranes again from it and the membrane before the chunk, in
// shared memory, and then back.
#pragma once

#include "cuda_back.h"

namespace fastlif::gpu {

// The spikes of a thread's neurons in a chunk, a byte a step.
struct Fired {
  uint64_t low = 0, high = 0;

  FASTLIF_INLINE unsigned operator[](int step) const { return unsigned((step < 8 ? low : high) >> step % 8 * 8); }
};

template <class T, class Known>
class FromInput : protected Back<T, Known> {
  using Base = Back<T, Known>;
  static constexpr bool kLean = T::kLean, kNormal = T::kNorm != Norm::none;

 protected:
  using Base::c;
  using Base::carried;
  using Base::first;
  using Base::gs;
  using Base::gx;
  using Base::l;
  using Base::o;
  using Base::P;
  using Base::p;
  using typename Base::F;
  using typename Base::In;
  using typename Base::Membrane;
  using typename Base::S;
  using typename Base::Spikes;
  using typename Base::X;

  FASTLIF_INLINE FromInput(const Launch<Backward, F>& l, const typename Base::Each& c, int64_t first,
                           const ScratchOf<T>& scratch)
      : Base(l, c, first), scratch(scratch), channels(p.scale, first), border(l.borders) {
    row = p.state + p.layout.rows_at + l.rows * p.layout.row_bytes + T::place(first);
  }

  // Steps stop-1 ... from; the membrane before them.
  FASTLIF_INLINE Membrane steps(int from, int stop) {
    this->start_at(stop);
    for (int begin = from + (stop - from - 1) / kChunkSteps * kChunkSteps;; begin -= kChunkSteps) {
      const Membrane v = chunk(begin, stop - begin < kChunkSteps ? stop - begin : kChunkSteps);
      if (begin == from) return v;
    }
  }

  FASTLIF_INLINE void skip(int start, int from) {
    if (!kNormal) return Base::skip(start, from);
    if (!p.gx) return;
    const Norms through(channels, p);
    for (int stop = from; stop > start; stop -= kAhead) {
      In ahead[kAhead];
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (stop - i > start) ahead[i] = load<In>(x_at(stop - 1 - i));
      FASTLIF_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (stop - i > start) this->write(through({}, through.away(widen<F>(ahead[i]))));
    }
  }

  FASTLIF_INLINE void finish() const {
    Base::finish();
    if (!kNormal) return;
    T::store_vector(p.gshift, first, gshift);
    T::store_vector(p.gscale, first, gscale);
  }

 private:
  using Norms = Through<F, P, T::kNorm>;

  const ScratchOf<T>& scratch;
  const Channels<F, P, T::kNorm> channels;
  int64_t border;      // rows of borders not yet used
  const uint8_t* row;  // past the rows not yet used
  Membrane gshift{}, gscale{};

  FASTLIF_INLINE int64_t x_step() const { return p.x ? p.x_stride * int64_t(sizeof(X)) : p.layout.row_bytes; }
  FASTLIF_INLINE const char* x_at(int t) const {
    return reinterpret_cast<const char*>(static_cast<const X*>(p.x) + first) + t * x_step();
  }

  template <Surrogate kKind, class C = Constants<F>>
  FASTLIF_INLINE Membrane slopes_of(const Membrane& h) const {
    Options known = o;
    known.surrogate = kKind;
    Membrane sg;
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) sg.at[k] = surrogate(known, C{c[k]}, F(h.at[k] - c[k].threshold));
    return sg;
  }

  FASTLIF_INLINE Membrane triangles(const Membrane& h) const {
    if (c[0].scale == 1 && c[0].height == 1) return slopes_of<Surrogate::triangle, Unit<F>>(h);
    Membrane sg;
    T::knowing_scale(c[0], [&] { sg = slopes_of<Surrogate::triangle>(h); });
    return sg;
  }

  FASTLIF_INLINE Membrane slopes(const Membrane& h) const {
    if (o.surrogate == Surrogate::triangle) return triangles(h);
    switch (o.surrogate) {
      case Surrogate::rectangle: return slopes_of<Surrogate::rectangle>(h);
      case Surrogate::pass_through: return slopes_of<Surrogate::pass_through>(h);
      case Surrogate::sigmoid: return slopes_of<Surrogate::sigmoid>(h);
      case Surrogate::atan: return slopes_of<Surrogate::atan>(h);
      default: return slopes_of<Surrogate::fast_sigmoid>(h);
    }
  }

  // As forward had them, where its bits are kept, in case that x was computed anew.
  FASTLIF_INLINE void spikes_of(const Membrane& h, const Fired& fired, int t, bool (&s)[P]) const {
    if (p.bits) {
      const unsigned bits = fired[t] >> unsigned(first) % 8;
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) s[k] = bits >> k & 1;
    } else {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) s[k] = fire(c[k], h.at[k]);
    }
  }

  // All loads under way at once: none is left out, past the end the last one is made again.
  FASTLIF_INLINE Fired fetch_bits(int begin, int count) const {
    static_assert(kChunkSteps == 16);
    const int64_t plane = (p.neurons + 7) / 8;
    const uint8_t* from = p.bits + begin * plane + first / 8;
    uint8_t bytes[kChunkSteps];
    FASTLIF_UNROLL
    for (int i = 0; i < kChunkSteps; ++i) {
      bytes[i] = load<uint8_t>(from);
      if (i + 1 < count) from += plane;
    }
    Fired fired;
    FASTLIF_UNROLL
    for (int i = 0; i < kChunkSteps; ++i) (i < 8 ? fired.low : fired.high) |= uint64_t(bytes[i]) << i % 8 * 8;
    return fired;
  }

  // Steps begin+count-1 ... begin: h from x and the membrane before them, then back. That membrane.
  FASTLIF_INLINE Membrane chunk(int begin, int count) {
    row -= count * p.layout.row_bytes;
    const bool at_v0 = begin == 0 && (kLean || l.tail == 0);
    if (!at_v0) --border;
    const char* x = kNormal || p.x ? x_at(begin) : reinterpret_cast<const char*>(row);
    FASTLIF_FOURFOLD
    for (int t = 0; t < count; ++t, x += x_step()) copy_ahead<In>(scratch.x_at(t), x);
    if (kLean || p.gs) {
      FASTLIF_FOURFOLD
      for (int t = count - 1; t >= 0; --t, gs -= l.in_step) copy_ahead<Spikes>(scratch.gs_at(t), gs);
    }
    const Membrane v0 = T::vector(at_v0 ? p.v0 : reinterpret_cast<const F*>(p.state) + border * p.neurons, first);
    Fired fired;
    if (p.bits) fired = fetch_bits(begin, count);
    recompute(v0, count, fired);
    const Norms through(channels, p);
    FASTLIF_ROLLED
    for (int t = count - 1; t >= 0; --t) {
      const Membrane h = scratch.get_h(t);
      const Spikes arrived = kLean || p.gs ? scratch.get_gs(t) : Spikes{};
      bool s[P];
      spikes_of(h, fired, t, s);
      Membrane out;
      const Membrane gh = this->step(begin + t, s, slopes(h), h, arrived, out);
      if constexpr (kNormal) write_through(through, out, widen<F>(scratch.get_x(t)));
      else this->write(out);
      if constexpr (!kLean) {
        x -= x_step();
        sum(gh, t, v0, fired, x);
      }
    }
    return v0;
  }

  FASTLIF_INLINE void recompute(const Membrane& v, int count, const Fired& fired) {
    const bool driven = !kLean || c[0].gain != 1;
    bool s[P];
    FASTLIF_UNROLL
    for (int k = 0; k < P; ++k) s[k] = fire(c[k], v.at[k]);
    wait_for_copies();
    if (driven) recompute_from<true>(v, s, count, fired);
    else recompute_from<false>(v, s, count, fired);
  }

  template <bool kDriven>
  FASTLIF_INLINE void recompute_from(Membrane v, bool (&s)[P], int count, const Fired& fired) {
    const Affine<F, P, T::kNorm> normalized(channels, p);
    FASTLIF_ROLLED
    for (int t = 0; t < count; ++t) {
      Membrane current = normalized(widen<F>(scratch.get_x(t))), h;
      if (kDriven) T::drive(c, current);
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) h.at[k] = charge(o, c[k], v.at[k], [&] { return s[k]; }, current.at[k]);
      spikes_of(h, fired, t, s);
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) v.at[k] = reset(o, c[k], h.at[k], s[k]);
      scratch.put_h(t, h);
    }
  }

  FASTLIF_INLINE void write_through(const Norms& through, const Membrane& out, const Membrane& x) {
    const Membrane away = through.away(x);
    if (p.gshift || p.gscale) {
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) {
        gshift.at[k] = gshift.at[k] + out.at[k];
        gscale.at[k] = gscale.at[k] + out.at[k] * away.at[k];
      }
    }
    if (p.gx) this->write(through(out, away));
  }

  // Adds step t of the chunk that v0 comes before to the gradients of gain and decay.
  FASTLIF_INLINE void sum(const Membrane& gh, int t, const Membrane& v0, const Fired& fired, const char* x) {
    if (p.ggain) {
      const Membrane current = Affine<F, P, T::kNorm>(channels, p)(widen<F>(load<In>(x)));
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].gain = carried[k].gain + gh.at[k] * current.at[k];
    }
    if (p.gdecay) {
      Membrane v = v0;
      if (t > 0) {
        const Membrane h = scratch.get_h(t - 1);
        bool s[P];
        spikes_of(h, fired, t - 1, s);
        FASTLIF_UNROLL
        for (int k = 0; k < P; ++k) v.at[k] = reset(o, c[k], h.at[k], s[k]);
      }
      FASTLIF_UNROLL
      for (int k = 0; k < P; ++k) carried[k].decay = carried[k].decay + gh.at[k] * v.at[k];
    }
  }
};

}  // namespace fastlif::gpu
