// A block of neurons forward through all steps, its membranes in cache. Included like cpu_block.h.

namespace fastlif::FASTLIF_TARGET {

template <class F, class X, class S, bool tensors, bool normal>
struct ForwardLoop : Block<F, X, S, tensors, normal> {
  using Base = Block<F, X, S, tensors, normal>;
  using Base::all;
  using Base::constants;
  using Base::normalized;
  using Base::prepare;
  using Base::specialise;
  using Base::use;
  using Base::W;
  using typename Base::M;
  using typename Base::R;

  template <bool full>
  static FASTLIF_INLINE void group(const Forward& p, const Options& o, const Workspace<F>& w, Constants<R> c, int64_t n,
                                   int valid, const X* x, S* spikes, uint8_t* row, F* border, uint8_t* bits,
                                   int64_t plane, bool past) {
    uint64_t fired = 0, inside = 0;
#pragma GCC unroll 4
    for (int k = 0; k < kGroup / W; ++k) {
      const int64_t i = n + k * W;
      const int count = full ? W : std::clamp(valid - k * W, 0, W);
      use(p, w, i, c);
      __builtin_prefetch(x + p.x_stride +
                         i);  // the next step: the machine's own prefetch stops where a block's row does
      const R v = load<W>(w.v + i, W), in = load<W>(x + i, count);
      if (border) store<F>(border + i, v, count, false);
      const R h =
          charge(o, c, v, [&]() __attribute__((always_inline)) { return fire(c, v); }, c.gain * normalized(w, i, in));
      const M s = fire(c, h);
      store<F>(w.v + i, reset(o, c, h, s), W, false);
      store<S>(spikes + i, o.spiking ? (s ? all(1) : R{}) : h, count, past);
      if (bits || o.keep == Keep::spikes || o.keep == Keep::bits) fired |= lane_bits(s) << (k * W);
      if (!row) continue;
      if (o.keep == Keep::input) store<X>(reinterpret_cast<X*>(row) + i, in, count, false);
      if (o.keep == Keep::code) {
        const R q = level(c, h);
        const auto code = __builtin_convertvector(__builtin_convertvector(q, M) | (s & 128), Vec<uint8_t, W>);
        std::memcpy(row + i, &code, count);
      }
      if (o.keep == Keep::bits) inside |= lane_bits(M(magnitude(R(h - c.threshold)) < c.scale)) << (k * W);
    }
    const int bytes = full ? kGroup / 8 : (valid + 7) / 8;
    if (!full) fired &= (uint64_t(1) << valid) - 1, inside &= (uint64_t(1) << valid) - 1;
    if (bits) std::memcpy(bits + n / 8, &fired, bytes);
    if (row && (o.keep == Keep::spikes || o.keep == Keep::bits)) {
      std::memcpy(row + n / 8, &fired, bytes);
      if (o.keep == Keep::bits) std::memcpy(row + plane + n / 8, &inside, bytes);
    }
  }

  static void run(const Forward& p, int64_t first, int64_t count, bool past, const Workspace<F>& w) {
    specialise(p.options,
               [&](auto fix) __attribute__((always_inline)) { run_as<decltype(fix)>(p, first, count, past, w); });
  }

  template <class Fix>
  static void run_as(const Forward& problem, int64_t first, int64_t count, bool past, const Workspace<F>& workspace) {
    const Forward p = problem;  // copies, which no store can be thought to change
    const Workspace<F> w = workspace;
    const Options o = Fix::of(p.options);
    const Constants<R> c = constants(p);
    const int64_t plane = (p.neurons + 7) / 8, full = count / kGroup * kGroup;
    prepare(problem, first, count, workspace);
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
      uint8_t* bits = p.bits ? p.bits + t * plane + first / 8 : nullptr;
      for (int64_t n = 0; n < full; n += kGroup)
        group<true>(p, o, w, c, n, kGroup, x, spikes, row, border, bits, plane, aligned);
      if (full < count) group<false>(p, o, w, c, full, count - full, x, spikes, row, border, bits, plane, aligned);
    }
    std::memcpy(static_cast<F*>(p.v) + first, w.v, count * sizeof(F));
  }
};

}  // namespace fastlif::FASTLIF_TARGET
