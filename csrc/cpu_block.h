// What the loops over a block of neurons share. Included once for each instruction set (cpu_loops.h), with
// FASTLIF_BYTES, the width of its vectors.

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
// `normal`: whether batch norm goes before.
template <class F, class X, class S, bool tensors, bool normal>
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
    const R threshold = all(u[3]), scale = all(u[6]);
    const bool exact = is_power_of_two(u[6]);
    return {all(u[0]),
            all(u[1]),
            all(u[2]),
            threshold,
            all(u[4]),
            all(u[5]),
            scale,
            all(u[7]),
            firing(p.options, threshold),
            exact ? 1 / scale : R{},
            exact};
  }

  // A loop for the most common options, where they are constants, or one for all.
  template <Keep keep, Reset reset, Surrogate surrogate>
  struct Fixed {
    static FASTLIF_INLINE Options of(Options o) {
      o.keep = keep, o.reset = reset, o.surrogate = surrogate, o.spiking = true;
      return o;
    }
  };
  struct AsGiven {
    static FASTLIF_INLINE Options of(const Options& o) { return o; }
  };
  template <Reset reset, class Body>
  static bool specialise_reset(const Options& o, const Body& body) {
    if (!o.spiking || o.reset != reset) return false;
    if (o.surrogate == Surrogate::triangle) {
      if (o.keep == Keep::input) return body(Fixed<Keep::input, reset, Surrogate::triangle>{}), true;
      if constexpr (!normal)
        if (o.keep == Keep::code) return body(Fixed<Keep::code, reset, Surrogate::triangle>{}), true;
    }
    if constexpr (!normal) {
      if (o.surrogate == Surrogate::rectangle) {
        if (o.keep == Keep::bits) return body(Fixed<Keep::bits, reset, Surrogate::rectangle>{}), true;
        if (o.keep == Keep::input) return body(Fixed<Keep::input, reset, Surrogate::rectangle>{}), true;
      }
    }
    return false;
  }
  template <class Body>
  static void specialise(const Options& o, const Body& body) {
    if constexpr (!tensors && FASTLIF_BYTES > 16) {
      if (specialise_reset<Reset::soft>(o, body) || specialise_reset<Reset::hard>(o, body)) return;
    }
    body(AsGiven{});
  }

  // Writes a parameter out for the block's neurons.
  static void spread(const Param& param, int64_t first, int64_t count, F* to) {
    const F* data = static_cast<const F*>(param.data);
    int64_t at = first / param.inner % param.size, left = param.inner - first % param.inner;
    if (param.inner == 1) {
      for (int64_t n = 0, run; n < count; n += run, at = 0) {
        run = std::min(count - n, param.size - at);
        std::memcpy(to + n, data + at, run * sizeof(F));
      }
      return;
    }
    for (int64_t n = 0, run; n < count; n += run, left = param.inner, at = at + 1 < param.size ? at + 1 : 0) {
      run = std::min(count - n, left);
      std::fill_n(to + n, run, data[at]);
    }
  }

  // The input of neurons n ... n+W-1, normalized where batch norm goes before.
  static FASTLIF_INLINE R normalized(const Workspace<F>& w, int64_t n, const R& x) {
    if constexpr (normal) return load<W>(w.scale + n, W) * x + load<W>(w.shift + n, W);
    else return x;
  }

  static FASTLIF_INLINE void use(const Problem& p, const Workspace<F>& w, int64_t n, Constants<R>& c) {
    if constexpr (!tensors) return;
    if (p.params[0].data) c.decay = load<W>(w.decay + n, W);
    if (p.params[1].data) c.gain = load<W>(w.gain + n, W);
    if (p.params[2].data) c.threshold = load<W>(w.threshold + n, W);
    if (p.params[2].data && p.options.tied) c.amount = c.threshold;
    if (p.params[2].data) c.firing = firing(p.options, c.threshold);
  }

  static void prepare(const Problem& p, int64_t first, int64_t count, const Workspace<F>& w) {
    F* to[3] = {w.decay, w.gain, w.threshold};
    for (int i = 0; i < 3; ++i)
      if (p.params[i].data) spread(p.params[i], first, count, to[i]);
    if constexpr (normal) spread(p.scale, first, count, w.scale), spread(p.shift, first, count, w.shift);
    for (F* v : {w.v, w.v0}) {
      if (p.v0) std::memcpy(v, static_cast<const F*>(p.v0) + first, count * sizeof(F));
      else std::memset(v, 0, count * sizeof(F));
    }
  }
};

}  // namespace fastlif::FASTLIF_TARGET
