// A block of neurons back through the steps that carry gradient. Included like cpu_block.h.

namespace fastlif::FASTLIF_TARGET {

template <class F, class X, class S, bool tensors, bool normal>
struct BackwardLoop : Block<F, X, S, tensors, normal> {
  using Base = Block<F, X, S, tensors, normal>;
  using Base::all;
  using Base::constants;
  using Base::lanes_of;
  using Base::normalized;
  using Base::prepare;
  using Base::specialise;
  using Base::spread;
  using Base::use;
  using Base::W;
  using typename Base::M;
  using typename Base::R;

  // body(n, W) for every whole vector of `count` neurons, then body(n, rest): with W a constant where that matters.
  template <class Body>
  static FASTLIF_INLINE void over_vectors(int64_t count, const Body& body) {
    int64_t n = 0;
    for (; n + W <= count; n += W) body(n, W);
    if (n < count) body(n, int(count - n));
  }

  // h of every step of the chunk, into w.h.
  static FASTLIF_INLINE void recompute(const Backward& p, const Options& o, const Chunk& chunk, int64_t first,
                                       int64_t count, const Workspace<F>& w) {
    Constants<R> c = constants(p);
    for (int64_t t = chunk.start; t < chunk.stop; ++t) {
      const X* x = input(p, chunk, t, first);
      const void* next = input(p, chunk, t + 1, first);
      if (p.gs && t + 1 == chunk.stop) next = static_cast<const S*>(p.gs) + t * p.gs_stride + first;  // the way back
      F* h = w.h + (t - chunk.start) * w.capacity;
      over_vectors(count, [&](int64_t n, int here) __attribute__((always_inline)) {
        __builtin_prefetch(static_cast<const X*>(next) + n);
        use(p, w, n, c);
        const R in = normalized(w, n, load<W>(x + n, here)), v = load<W>(w.v + n, W);
        const auto before = [&]() __attribute__((always_inline)) {
          return t == chunk.start ? M(fire(c, v)) : spikes_of(p, c, v, t - 1, first + n);
        };
        const R value = charge(o, c, v, before, c.gain * in);
        store<F>(h + n, value, W, false);
        store<F>(w.v + n, reset(o, c, value, spikes_of(p, c, value, t, first + n)), W, false);
      });
    }
  }

  // The spikes of step t, neurons n ... n+W-1: as forward had them, where its bits are kept, in case that x was
  // computed anew.
  static FASTLIF_INLINE M spikes_of(const Backward& p, const Constants<R>& c, const R& h, int64_t t, int64_t n) {
    if (!p.bits) return fire(c, h);
    const uint8_t* from = p.bits + t * ((p.neurons + 7) / 8) + n / 8;
    std::conditional_t<(W > 8), uint16_t, uint8_t> bits = 0;  // of their size: they stay out of memory
    if (n + W <= p.neurons) std::memcpy(&bits, from, sizeof(bits));
    else std::memcpy(&bits, from, std::clamp<int64_t>((p.neurons - n + 7) / 8, 0, sizeof(bits)));
    return lanes_of(W < 8 ? bits >> n % 8 : bits);
  }

  static FASTLIF_INLINE const X* input(const Backward& p, const Chunk& chunk, int64_t t, int64_t first) {
    if (p.x) return static_cast<const X*>(p.x) + t * p.x_stride + first;
    const uint8_t* row = p.state + p.layout.rows_at + (chunk.row + t - chunk.start) * p.layout.row_bytes;
    return reinterpret_cast<const X*>(row) + first;
  }

  // The gradient of what batch norm normalized, from that of its result; `away`: what was normalized less its mean.
  static FASTLIF_INLINE R through_norm(const Backward& p, const Workspace<F>& w, int64_t n, const R& gx,
                                       const R& away) {
    const R scaled = load<W>(w.scale + n, W) * gx;
    if (!p.slope.data) return scaled;
    return scaled - load<W>(w.slope + n, W) * away - load<W>(w.offset + n, W);
  }

  static FASTLIF_INLINE void add(F* to, const R& value) { store<F>(to, load<W>(to, W) + value, W, false); }

  struct Step {
    const S* gs;
    X* gx;
    const X* x;
    const uint8_t* row;
    const F* h;
    const F* v;        // the membrane before a chunk's first step, null for the others
    const void* next;  // the row that is read after gs: of the step before, or of the next block
    int64_t plane, t, first;
    bool last, cut, past;
  };

  // `plain`: a step with dL/ds, neither the last nor before a cut.
  template <bool full, bool plain>
  static FASTLIF_INLINE void group(const Backward& p, const Options& o, const Workspace<F>& w, Constants<R> c,
                                   int64_t n, int valid, const Step& at) {
    uint64_t fired = 0, inside = 0;
    if (o.keep == Keep::spikes || o.keep == Keep::bits) {
      const int bytes = full ? kGroup / 8 : (valid + 7) / 8;
      std::memcpy(&fired, at.row + n / 8, bytes);
      if (o.keep == Keep::bits) std::memcpy(&inside, at.row + at.plane + n / 8, bytes);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kGroup / W; ++k) {
      const int64_t i = n + k * W;
      const int count = full ? W : std::clamp(valid - k * W, 0, W);
      use(p, w, i, c);
      R h{}, sg = c.height;
      M s{};
      if (o.keep == Keep::input) {
        h = load<W>(at.h + i, W);
        s = spikes_of(p, c, h, at.t, at.first + i);
        sg = surrogate(o, c, R(h - c.threshold));
      } else if (o.keep == Keep::code) {
        const auto code = __builtin_convertvector((read<Vec<uint8_t, W>>(at.row + i, count)), M);
        s = (code & 128) != 0;
        from_level(o, c, R(__builtin_convertvector(code & 127, R)), s, sg, h);
      } else if (o.keep != Keep::nothing) {
        s = lanes_of(fired >> (k * W));
        if (o.keep == Keep::bits) sg = lanes_of(inside >> (k * W)) ? c.height : R{};
      }
      const R gs = plain || at.gs ? load<W>(at.gs + i, count) : R{};
      if (plain || at.gs) __builtin_prefetch(static_cast<const S*>(at.next) + i);
      if (o.keep == Keep::code) __builtin_prefetch(at.row - p.layout.row_bytes + i);
      Carried<R> carried{load<W>(w.g + i, W), R{}, R{}, R{}};
      const R gh = FASTLIF_TARGET::backward(o, c, s, sg, h, gs, !plain && at.last, !plain && at.cut,
                                            tensors && p.gthreshold != nullptr, carried);
      store<F>(w.g + i, carried.g, W, false);
      const R gx = c.gain * gh;
      if constexpr (normal) {
        const R away = load<W>(at.x + i, count) - load<W>(w.mean + i, W);
        if (p.gshift) {
          add(w.gshift + i, gx), add(w.gscale + i, gx * away);
          if (p.gx) store<X>(at.gx + i, gx, count, at.past);
        } else if (p.gx) {
          store<X>(at.gx + i, through_norm(p, w, i, gx, away), count, at.past);
        }
      } else {
        store<X>(at.gx + i, gx, count, at.past);
      }
      if constexpr (!tensors) continue;
      if (p.gthreshold) add(w.gthreshold + i, carried.threshold);
      if (p.ggain) add(w.ggain + i, gh * normalized(w, i, load<W>(at.x + i, count)));
      if (p.gdecay) {
        R v;
        if (at.v) {
          v = load<W>(at.v + i, count);
        } else {
          const R before = load<W>(at.h - w.capacity + i, W);
          v = reset(o, c, before, spikes_of(p, c, before, at.t - 1, at.first + i));
        }
        add(w.gdecay + i, gh * v);
      }
    }
  }

  static void run(const Backward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    specialise(p.options,
               [&](auto fix) __attribute__((always_inline)) { run_as<decltype(fix)>(p, first, count, past, w); });
  }

  template <class Fix>
  static void run_as(const Backward& problem, int64_t first, int64_t count, bool past, const Workspace<F>& workspace) {
    const Backward p = problem;  // copies, which no store can be thought to change
    const Workspace<F> w = workspace;
    const Options o = Fix::of(p.options);
    const Constants<R> c = constants(p);
    const Schedule schedule = p.schedule;
    const int64_t plane = (p.neurons + 7) / 8, full = count / kGroup * kGroup, rest = count - full;
    prepare(problem, first, count, workspace);
    if (p.gv) std::memcpy(w.g, static_cast<const F*>(p.gv) + first, count * sizeof(F));
    else std::memset(w.g, 0, count * sizeof(F));
    for (const auto& [param, to] :
         {std::pair(problem.mean, w.mean), std::pair(problem.slope, w.slope), std::pair(problem.offset, w.offset)})
      if (normal && param.data) spread(param, first, count, to);
    for (F* total : {w.gdecay, w.ggain, w.gthreshold, w.gshift, w.gscale})
      if (total) std::memset(total, 0, w.capacity * sizeof(F));
    int64_t next = schedule.steps;
    for (int64_t number = schedule.chunks() - 1; number >= 0; --number) {
      const Chunk chunk = schedule.chunk(number);
      if (chunk.stop < next) clear(problem, workspace, chunk.stop, next, first, count);
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
        at.gx = static_cast<X*>(p.gx) + t * p.gx_stride + first;
        if (p.gs) at.next = t > 0 ? at.gs - p.gs_stride : at.gs + count;
        at.t = t;
        at.first = first;
        at.past = past && reinterpret_cast<uintptr_t>(at.gx) % FASTLIF_BYTES == 0;
        at.plane = plane;
        at.last = t == schedule.steps - 1;
        at.cut = schedule.is_cut(t);
        if (o.keep == Keep::input) {
          at.h = w.h + (t - chunk.start) * w.capacity;
          at.x = input(p, chunk, t, first);
          at.v = t == chunk.start ? border : nullptr;
          if (t == 0) at.next = at.x + count;
        } else if (p.layout.row_bytes > 0) {
          at.row =
              p.state + (chunk.row + t - chunk.start) * p.layout.row_bytes + (o.keep == Keep::code ? first : first / 8);
        }
        if (at.gs && !at.last && !at.cut)
          for (int64_t n = 0; n < full; n += kGroup) group<true, true>(p, o, w, c, n, kGroup, at);
        else
          for (int64_t n = 0; n < full; n += kGroup) group<true, false>(p, o, w, c, n, kGroup, at);
        if (rest > 0) group<false, false>(p, o, w, c, full, rest, at);
      }
      if (number == 0 || schedule.chunk(number - 1).stop != chunk.start) {
        before_window(problem, border, count, workspace);
        if (!schedule.whole()) std::memset(w.g, 0, count * sizeof(F));
      }
    }
    clear(problem, workspace, 0, next, first, count);
    void* totals[6] = {p.gv0, p.gdecay, p.ggain, p.gthreshold, p.gshift, p.gscale};
    const F* sums[6] = {w.g, w.gdecay, w.ggain, w.gthreshold, w.gshift, w.gscale};
    for (int i = 0; i < 6; ++i)
      if (totals[i]) std::memcpy(static_cast<F*>(totals[i]) + first, sums[i], count * sizeof(F));
  }

  // Batch norm's gradient from dL/dx in gs, once the sums over channels are known; gx may be the same.
  static void finish(const Backward& problem, int64_t first, int64_t count, bool past, const Workspace<F>& workspace) {
    const Backward p = problem;
    const Workspace<F> w = workspace;
    spread(problem.scale, first, count, w.scale), spread(problem.mean, first, count, w.mean);
    spread(problem.slope, first, count, w.slope), spread(problem.offset, first, count, w.offset);
    for (int64_t t = 0; t < p.schedule.steps; ++t) {
      const X* x = static_cast<const X*>(p.x) + t * p.x_stride + first;
      const X* from = static_cast<const X*>(p.gs) + t * p.gs_stride + first;
      X* gx = static_cast<X*>(p.gx) + t * p.gx_stride + first;
      const bool far = past && reinterpret_cast<uintptr_t>(gx) % FASTLIF_BYTES == 0;
      over_vectors(count, [&](int64_t n, int here) __attribute__((always_inline)) {
        __builtin_prefetch(x + p.x_stride + n);
        __builtin_prefetch(from + p.gs_stride + n);
        const R away = load<W>(x + n, here) - load<W>(w.mean + n, W);
        store<X>(gx + n, through_norm(p, w, n, load<W>(from + n, here), away), here, far);
      });
    }
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

  // Steps that carry no gradient of the neurons.
  static void clear(const Backward& p, const Workspace<F>& w, int64_t start, int64_t stop, int64_t first,
                    int64_t count) {
    if (normal && !p.gx) return;
    for (int64_t t = start; t < stop; ++t) {
      X* gx = static_cast<X*>(p.gx) + t * p.gx_stride + first;
      if (normal && p.slope.data && !p.gshift) {
        const X* x = static_cast<const X*>(p.x) + t * p.x_stride + first;
        over_vectors(count, [&](int64_t n, int here) __attribute__((always_inline)) {
          const R away = load<W>(x + n, here) - load<W>(w.mean + n, W);
          store<X>(gx + n, through_norm(p, w, n, R{}, away), here, false);
        });
      } else {
        std::memset(gx, 0, count * sizeof(X));
      }
    }
  }
};

}  // namespace fastlif::FASTLIF_TARGET
