// The time loops over a block of neurons, compiled once for each instruction set: cpu.cpp includes this file between the
// compiler's target pragmas with FASTLIF_BYTES, the width of a vector. A block's membranes stay in cache over all steps.

#if FASTLIF_BYTES == 64
#define FASTLIF_TARGET avx512
#elif FASTLIF_BYTES == 32
#define FASTLIF_TARGET avx2
#else
#define FASTLIF_TARGET plain
#endif

#include "neuron.h"
#include "lanes.h"

namespace fastlif::FASTLIF_TARGET {

constexpr int kGroup = 64;  // neurons handled at once: whole bytes of bits, several vectors in flight

// One bit for each lane of a comparison's result.
template <class M>
FASTLIF_INLINE uint64_t lane_bits(const M& mask) {
  constexpr bool wide = sizeof(mask[0]) == 8;
#if FASTLIF_BYTES == 64
  if constexpr (wide) return _mm512_movepi64_mask((__m512i)mask);
  else return _mm512_movepi32_mask((__m512i)mask);
#elif FASTLIF_BYTES == 32
  if constexpr (wide) return _mm256_movemask_pd((__m256d)mask);
  else return _mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
  if constexpr (wide) return _mm_movemask_pd((__m128d)mask);
  else return _mm_movemask_ps((__m128)mask);
#else
  uint64_t bits = 0;
  for (unsigned i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i) bits |= uint64_t(mask[i] & 1) << i;
  return bits;
#endif
}

// Past the caches, for outputs that would not fit them anyway.
template <class V>
FASTLIF_INLINE void store_past(void* to, const V& v) {
#if FASTLIF_BYTES >= 16 && defined(__SSE2__)
#if FASTLIF_BYTES == 64
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512((__m512i*)to, (__m512i)v);
#endif
#if FASTLIF_BYTES >= 32
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256((__m256i*)to, (__m256i)v);
#endif
  if constexpr (sizeof(V) == 16) return _mm_stream_si128((__m128i*)to, (__m128i)v);
#endif
  std::memcpy(to, &v, sizeof(v));
}

template <class T, class V>
FASTLIF_INLINE void store(T* to, const V& v, int count, bool past) {
  constexpr int W = sizeof(v) / sizeof(v[0]);
  const auto out = narrow<W>(v, T{});
  if (past && count == W) store_past(to, out);
  else std::memcpy(to, &out, count * sizeof(T));
}

// F: the type of the arithmetic, X: of the input, S: of the spikes. `tensors`: whether decay, gain or threshold is one.
template <class F, class X, class S, bool tensors>
struct Block {
  static constexpr int W = FASTLIF_BYTES / sizeof(F);
  using R = Vec<F, W>;
  using I = std::conditional_t<sizeof(F) == 8, int64_t, int32_t>;
  using M = Vec<I, W>;

  static FASTLIF_INLINE R all(double value) { return static_cast<F>(value) - R{}; }

  static FASTLIF_INLINE M lanes_of(uint64_t bits) {
    M bit;
    for (int i = 0; i < W; ++i) bit[i] = I(1) << i;
    return ((M{} + static_cast<I>(bits & ((uint64_t(1) << W) - 1))) & bit) != 0;
  }

  static FASTLIF_INLINE Constants<R> constants(const Problem& p) {
    const double* u = p.values;
    const R equal = p.options.fire_on_equal ? all(u[3]) : all(std::numeric_limits<double>::quiet_NaN());
    return {all(u[0]), all(u[1]), all(u[2]), all(u[3]), all(u[4]), all(u[5]), all(u[6]), all(u[7]), equal};
  }

  // A loop for the most common options, where they are constants, or one for all.
  template <Keep keep, Reset reset>
  struct Fixed {
    static FASTLIF_INLINE Options of(Options o) {
      o.keep = keep, o.reset = reset, o.spiking = true;
      return o;
    }
  };
  struct AsGiven {
    static FASTLIF_INLINE Options of(const Options& o) { return o; }
  };
  template <class Body>
  static void specialise(const Options& o, const Body& body) {
    if constexpr (!tensors && FASTLIF_BYTES > 16) {
      if (o.spiking && o.reset == Reset::soft) {
        if (o.keep == Keep::bits) return body(Fixed<Keep::bits, Reset::soft>{});
        if (o.keep == Keep::code) return body(Fixed<Keep::code, Reset::soft>{});
        if (o.keep == Keep::input) return body(Fixed<Keep::input, Reset::soft>{});
      }
      if (o.spiking && o.reset == Reset::hard) {
        if (o.keep == Keep::code) return body(Fixed<Keep::code, Reset::hard>{});
        if (o.keep == Keep::input) return body(Fixed<Keep::input, Reset::hard>{});
      }
    }
    body(AsGiven{});
  }

  // Writes a tensor parameter out for the block's neurons.
  static void spread(const Param& param, int64_t first, int64_t count, F* to) {
    const F* data = static_cast<const F*>(param.data);
    for (int64_t n = 0; n < count; ++n) to[n] = data[(first + n) / param.inner % param.size];
  }

  static FASTLIF_INLINE void use(const Problem& p, const Workspace<F>& w, int64_t n, Constants<R>& c) {
    if constexpr (!tensors) return;
    if (p.params[0].data) c.decay = load<W>(w.decay + n, W);
    if (p.params[1].data) c.gain = load<W>(w.gain + n, W);
    if (p.params[2].data) c.threshold = load<W>(w.threshold + n, W);
    if (p.params[2].data && p.options.tied) c.amount = c.threshold;
    if (p.params[2].data && p.options.fire_on_equal) c.equal = c.threshold;
  }

  static void prepare(const Problem& p, int64_t first, int64_t count, const Workspace<F>& w) {
    F* to[3] = {w.decay, w.gain, w.threshold};
    for (int i = 0; i < 3; ++i)
      if (p.params[i].data) spread(p.params[i], first, count, to[i]);
    for (F* v : {w.v, w.v0}) {
      if (p.v0) std::memcpy(v, static_cast<const F*>(p.v0) + first, count * sizeof(F));
      else std::memset(v, 0, count * sizeof(F));
    }
  }

  template <bool full>
  static FASTLIF_INLINE void forward_group(const Forward& p, const Options& o, const Workspace<F>& w, Constants<R> c,
                                           int64_t n, int valid, const X* x, S* spikes, uint8_t* row, F* border,
                                           int64_t plane, bool past) {
    uint64_t fired = 0, inside = 0;
    for (int k = 0; k < kGroup / W; ++k) {
      const int64_t i = n + k * W;
      const int count = full ? W : std::clamp(valid - k * W, 0, W);
      use(p, w, i, c);
      __builtin_prefetch(x + p.x_stride + i);  // the next step: the machine's own prefetch stops where a block's row does
      const R v = load<W>(w.v + i, W), in = load<W>(x + i, count);
      if (border) store<F>(border + i, v, count, false);
      const R h = charge(o, c, v, in);
      const M s = fire(c, h);
      store<F>(w.v + i, reset(o, c, h, s), W, false);
      store<S>(spikes + i, o.spiking ? (s ? all(1) : R{}) : h, count, past);
      if (!row) continue;
      if (o.keep == Keep::input) store<X>(reinterpret_cast<X*>(row) + i, in, count, false);
      if (o.keep == Keep::code) {
        const R q = level(c, h);
        const auto code = __builtin_convertvector(__builtin_convertvector(q, M) | (s & 128), Vec<uint8_t, W>);
        std::memcpy(row + i, &code, count);
      }
      if (o.keep == Keep::spikes || o.keep == Keep::bits) fired |= lane_bits(s) << (k * W);
      if (o.keep == Keep::bits) inside |= lane_bits(M(magnitude(R(h - c.threshold)) < c.scale)) << (k * W);
    }
    if (row && (o.keep == Keep::spikes || o.keep == Keep::bits)) {
      const int bytes = full ? kGroup / 8 : (valid + 7) / 8;
      if (!full) fired &= (uint64_t(1) << valid) - 1, inside &= (uint64_t(1) << valid) - 1;
      std::memcpy(row + n / 8, &fired, bytes);
      if (o.keep == Keep::bits) std::memcpy(row + plane + n / 8, &inside, bytes);
    }
  }

  static void forward(const Forward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    specialise(p.options, [&](auto fix) __attribute__((always_inline)) { forward_as<decltype(fix)>(p, first, count, past, w); });
  }

  template <class Fix>
  static void forward_as(const Forward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    const Options o = Fix::of(p.options);
    const Constants<R> c = constants(p);
    const int64_t plane = (p.neurons + 7) / 8, full = count / kGroup * kGroup;
    prepare(p, first, count, w);
    for (int64_t t = 0; t < p.schedule.steps; ++t) {
      const X* x = static_cast<const X*>(p.x) + t * p.x_stride + first;
      S* spikes = static_cast<S*>(p.spikes) + t * p.neurons + first;
      const bool aligned = past && reinterpret_cast<uintptr_t>(spikes) % FASTLIF_BYTES == 0;
      int64_t at = -1;
      const int64_t number = o.keep == Keep::nothing ? -1 : p.schedule.row(t, at);
      uint8_t* row = nullptr;
      if (number >= 0 && p.layout.row_bytes > 0) {
        const int64_t unit = o.keep == Keep::input ? first * sizeof(X) : o.keep == Keep::code ? first : first / 8;
        row = p.state + p.layout.rows_at + number * p.layout.row_bytes + unit;
      }
      F* border = o.keep == Keep::input && at >= 0 ? reinterpret_cast<F*>(p.state) + at * p.neurons + first : nullptr;
      for (int64_t n = 0; n < full; n += kGroup)
        forward_group<true>(p, o, w, c, n, kGroup, x, spikes, row, border, plane, aligned);
      if (full < count) forward_group<false>(p, o, w, c, full, count - full, x, spikes, row, border, plane, aligned);
    }
    std::memcpy(static_cast<F*>(p.v) + first, w.v, count * sizeof(F));
  }

  // h of every step of the chunk, into w.h.
  static FASTLIF_INLINE void recompute(const Backward& p, const Options& o, const Chunk& chunk, int64_t first, int64_t count,
                                       const Workspace<F>& w) {
    Constants<R> c = constants(p);
    for (int64_t t = chunk.start; t < chunk.stop; ++t) {
      const X* x = input(p, chunk, t, first);
      const int64_t ahead = p.x ? p.x_stride : p.neurons;
      F* h = w.h + (t - chunk.start) * w.capacity;
      for (int64_t n = 0; n < count; n += W) {
        __builtin_prefetch(x + ahead + n);
        use(p, w, n, c);
        const R value = charge(o, c, load<W>(w.v + n, W), load<W>(x + n, std::min<int64_t>(W, count - n)));
        store<F>(h + n, value, W, false);
        store<F>(w.v + n, reset(o, c, value, fire(c, value)), W, false);
      }
    }
  }

  static FASTLIF_INLINE const X* input(const Backward& p, const Chunk& chunk, int64_t t, int64_t first) {
    if (p.x) return static_cast<const X*>(p.x) + t * p.x_stride + first;
    const uint8_t* row = p.state + p.layout.rows_at + (chunk.row + t - chunk.start) * p.layout.row_bytes;
    return reinterpret_cast<const X*>(row) + first;
  }

  static FASTLIF_INLINE void add(F* to, const R& value) { store<F>(to, load<W>(to, W) + value, W, false); }

  struct Step {
    const S* gs;
    X* gx;
    const X* x;
    const uint8_t* row;
    const F* h;
    const F* v;  // the membrane before a chunk's first step, null for the others
    int64_t plane;
    bool last, cut, past;
  };

  template <bool full>
  static FASTLIF_INLINE void backward_group(const Backward& p, const Options& o, const Workspace<F>& w, Constants<R> c,
                                            int64_t n, int valid, const Step& at) {
    uint64_t fired = 0, inside = 0;
    if (o.keep == Keep::spikes || o.keep == Keep::bits) {
      const int bytes = full ? kGroup / 8 : (valid + 7) / 8;
      std::memcpy(&fired, at.row + n / 8, bytes);
      if (o.keep == Keep::bits) std::memcpy(&inside, at.row + at.plane + n / 8, bytes);
    }
    for (int k = 0; k < kGroup / W; ++k) {
      const int64_t i = n + k * W;
      const int count = full ? W : std::clamp(valid - k * W, 0, W);
      use(p, w, i, c);
      R h{}, sg = c.height;
      M s{};
      if (o.keep == Keep::input) {
        h = load<W>(at.h + i, W);
        s = fire(c, h);
        sg = surrogate(o, c, R(h - c.threshold));
      } else if (o.keep == Keep::code) {
        const auto code = __builtin_convertvector((read<Vec<uint8_t, W>>(at.row + i, count)), M);
        s = (code & 128) != 0;
        from_level(o, c, R(__builtin_convertvector(code & 127, R)), s, sg, h);
      } else if (o.keep != Keep::nothing) {
        s = lanes_of(fired >> (k * W));
        if (o.keep == Keep::bits) sg = lanes_of(inside >> (k * W)) ? c.height : R{};
      }
      const R gs = at.gs ? load<W>(at.gs + i, count) : R{};
      if (at.gs) __builtin_prefetch(at.gs - p.gs_stride + i);
      if (o.keep == Keep::code) __builtin_prefetch(at.row - p.layout.row_bytes + i);
      Carried<R> carried{load<W>(w.g + i, W), R{}, R{}, R{}};
      const R gh = FASTLIF_TARGET::backward(o, c, s, sg, h, gs, at.last, at.cut, tensors && p.gthreshold != nullptr, carried);
      store<F>(w.g + i, carried.g, W, false);
      store<X>(at.gx + i, R(c.gain * gh), count, at.past);
      if constexpr (!tensors) continue;
      if (p.gthreshold) add(w.gthreshold + i, carried.threshold);
      if (p.ggain) add(w.ggain + i, gh * load<W>(at.x + i, count));
      if (p.gdecay) {
        R v;
        if (at.v) {
          v = load<W>(at.v + i, count);
        } else {
          const R before = load<W>(at.h - w.capacity + i, W);
          v = reset(o, c, before, fire(c, before));
        }
        add(w.gdecay + i, gh * v);
      }
    }
  }

  static void backward(const Backward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    specialise(p.options, [&](auto fix) __attribute__((always_inline)) { backward_as<decltype(fix)>(p, first, count, past, w); });
  }

  template <class Fix>
  static void backward_as(const Backward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    const Options o = Fix::of(p.options);
    const Constants<R> c = constants(p);
    const Schedule schedule = p.schedule;
    const int64_t plane = (p.neurons + 7) / 8, full = count / kGroup * kGroup, rest = count - full;
    prepare(p, first, count, w);
    if (p.gv) std::memcpy(w.g, static_cast<const F*>(p.gv) + first, count * sizeof(F));
    else std::memset(w.g, 0, count * sizeof(F));
    for (F* total : {w.gdecay, w.ggain, w.gthreshold})
      if (total) std::memset(total, 0, w.capacity * sizeof(F));
    int64_t next = schedule.steps;
    for (int64_t number = schedule.chunks() - 1; number >= 0; --number) {
      const Chunk chunk = schedule.chunk(number);
      if (chunk.stop < next) clear(p, chunk.stop, next, first, count);
      next = chunk.start;
      const F* border = w.v0;  // zeros or v0
      if (o.keep == Keep::input) {
        if (chunk.border >= 0) border = reinterpret_cast<const F*>(p.state) + chunk.border * p.neurons + first;
        std::memcpy(w.v, border, count * sizeof(F));
        recompute(p, o, chunk, first, count, w);
      }
      for (int64_t t = chunk.stop - 1; t >= chunk.start; --t) {
        Step at{};
        at.gs = p.gs ? static_cast<const S*>(p.gs) + t * p.gs_stride + first : nullptr;
        at.gx = static_cast<X*>(p.gx) + t * p.neurons + first;
        at.past = past && reinterpret_cast<uintptr_t>(at.gx) % FASTLIF_BYTES == 0;
        at.plane = plane;
        at.last = t == schedule.steps - 1;
        at.cut = schedule.is_cut(t);
        if (o.keep == Keep::input) {
          at.h = w.h + (t - chunk.start) * w.capacity;
          at.x = input(p, chunk, t, first);
          at.v = t == chunk.start ? border : nullptr;
        } else if (p.layout.row_bytes > 0) {
          at.row = p.state + (chunk.row + t - chunk.start) * p.layout.row_bytes + (o.keep == Keep::code ? first : first / 8);
        }
        for (int64_t n = 0; n < full; n += kGroup) backward_group<true>(p, o, w, c, n, kGroup, at);
        if (rest > 0) backward_group<false>(p, o, w, c, full, rest, at);
      }
      if (number == 0 || schedule.chunk(number - 1).stop != chunk.start) {
        before_window(p, border, count, w);
        if (!schedule.whole()) std::memset(w.g, 0, count * sizeof(F));
      }
    }
    clear(p, 0, next, first, count);
    void* totals[4] = {p.gv0, p.gdecay, p.ggain, p.gthreshold};
    const F* sums[4] = {w.g, w.gdecay, w.ggain, w.gthreshold};
    for (int i = 0; i < 4; ++i)
      if (totals[i]) std::memcpy(static_cast<F*>(totals[i]) + first, sums[i], count * sizeof(F));
  }

  static void before_window(const Backward& p, const F* v, int64_t count, const Workspace<F>& w) {
    if (p.options.reset != Reset::delayed) return;
    Constants<R> c = constants(p);
    for (int64_t n = 0; n < count; n += W) {
      use(p, w, n, c);
      Carried<R> carried{load<W>(w.g + n, W), R{}, R{}, p.gthreshold ? load<W>(w.gthreshold + n, W) : R{}};
      backward_before(p.options, c, load<W>(v + n, std::min<int64_t>(W, count - n)), carried);
      store<F>(w.g + n, carried.g, W, false);
      if (p.gthreshold) store<F>(w.gthreshold + n, carried.threshold, W, false);
    }
  }

  static void clear(const Backward& p, int64_t start, int64_t stop, int64_t first, int64_t count) {
    for (int64_t t = start; t < stop; ++t)
      std::memset(static_cast<X*>(p.gx) + t * p.neurons + first, 0, count * sizeof(X));
  }
};

}  // namespace fastlif::FASTLIF_TARGET

#undef FASTLIF_TARGET
