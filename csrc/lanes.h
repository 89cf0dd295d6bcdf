// Vectors of numbers on a CPU, by the compiler's vector extension: loads that convert from what is in memory, stores
// that convert back, and the exponential. Included, like neuron.h, once for each FASTLIF_TARGET.

namespace fastlif::FASTLIF_TARGET {

template <class E, int W>
struct VectorOf {
  typedef E type __attribute__((vector_size(sizeof(E) * W)));
};
template <class E, int W>
using Vec = typename VectorOf<E, W>::type;

template <class To, class From>
FASTLIF_INLINE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V, class T>
FASTLIF_INLINE V read(const T* from, int count) {
  V v{};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
}

// `count` numbers of W (all of them, but for the last of a step), widened to the type of the arithmetic.
template <int W>
FASTLIF_INLINE Vec<float, W> load(const float* from, int count) {
  return read<Vec<float, W>>(from, count);
}

template <int W>
FASTLIF_INLINE Vec<double, W> load(const double* from, int count) {
  return read<Vec<double, W>>(from, count);
}

template <int W>
FASTLIF_INLINE Vec<float, W> load(const BFloat16* from, int count) {
  const auto wide = __builtin_convertvector((read<Vec<uint16_t, W>>(from, count)), Vec<uint32_t, W>);
  return bits_as<Vec<float, W>>(Vec<uint32_t, W>(wide << 16));
}

template <int W>
FASTLIF_INLINE Vec<float, W> load(const Half* from, int count) {
  using U = Vec<uint32_t, W>;
  const U h = __builtin_convertvector((read<Vec<uint16_t, W>>(from, count)), U);
  const U sign = (h & 0x8000u) << 16, shifted = (h & 0x7fffu) << 13;
  const Vec<float, W> scaled = bits_as<Vec<float, W>>(shifted) * 0x1p112f;  // rebiases the exponent, subnormals too
  const U finite = bits_as<U>(scaled);
  return bits_as<Vec<float, W>>(U(sign | ((h & 0x7fffu) >= 0x7c00u ? (shifted | 0x7f800000u) : finite)));
}

// What lies in memory for v: rounded to nearest even.
template <int W>
FASTLIF_INLINE Vec<float, W> narrow(const Vec<float, W>& v, float) {
  return v;
}

template <int W>
FASTLIF_INLINE Vec<double, W> narrow(const Vec<double, W>& v, double) {
  return v;
}

template <int W>
FASTLIF_INLINE Vec<uint16_t, W> narrow(const Vec<float, W>& v, BFloat16) {
  using U = Vec<uint32_t, W>;
  const U u = bits_as<U>(v);
  const U rounded = (u + ((u >> 16) & 1u) + 0x7fffu) >> 16;
  return __builtin_convertvector(U((u & 0x7fffffffu) > 0x7f800000u ? U{} + 0x7fc0u : rounded), Vec<uint16_t, W>);
}

template <int W>
FASTLIF_INLINE Vec<uint16_t, W> narrow(const Vec<float, W>& v, Half) {
  using U = Vec<uint32_t, W>;
  const U u = bits_as<U>(v), sign = u & 0x80000000u, a = u ^ sign;
  const U special = a > 0x7f800000u ? U{} + 0x7e00u : U{} + 0x7c00u;
  const U magic = U{} + 0x3f000000u;  // 0.5: adding it shifts a subnormal's bits into place, rounded
  const U subnormal = bits_as<U>(Vec<float, W>(bits_as<Vec<float, W>>(a) + bits_as<Vec<float, W>>(magic))) - magic;
  const U normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
  const U h = a >= 0x47800000u ? special : (a < 0x38800000u ? subnormal : normal);
  return __builtin_convertvector(U(h | (sign >> 16)), Vec<uint16_t, W>);
}

// All bits but the sign: a comparison would cost two instructions more.
template <class R>
FASTLIF_INLINE R magnitude(const R& z) {
  using U = Vec<std::conditional_t<sizeof(z[0]) == 8, uint64_t, uint32_t>, sizeof(z) / sizeof(z[0])>;
  return bits_as<R>(U(bits_as<U>(z) & ((U{} - 1) >> 1)));
}

template <class R>
FASTLIF_INLINE R next_above(const R& t) {
  using U = Vec<std::conditional_t<sizeof(t[0]) == 8, uint64_t, uint32_t>, sizeof(t) / sizeof(t[0])>;
  const U bits = bits_as<U>(t);
  const R next = bits_as<R>(U(t > R{} ? bits + 1 : (t < R{} ? bits - 1 : U{} + 1)));
  // where subnormal numbers count as 0 (torch.set_flush_denormal), the least that does not
  const R least = R{} + std::numeric_limits<std::decay_t<decltype(t[0])>>::min(), above = next <= t ? least : next;
  return t == t ? above : t;
}

// float: within 2 ulp. x = n * log(2) + r, a polynomial of r, and 2^n by its bits.
template <class R>
FASTLIF_INLINE R exponential(const R& x) {
  constexpr int W = sizeof(x) / sizeof(x[0]);
  if constexpr (sizeof(x[0]) == 8) {
    R y;
    for (int i = 0; i < W; ++i) y[i] = std::exp(x[i]);
    return y;
  } else {
    using I = Vec<int32_t, W>;
    const R bounded = x < R{} - 105.0f ? R{} - 105.0f : x;  // exp(-105) is 0
    const I n = __builtin_convertvector(R(bounded * 1.44269504f - 0.5f), I);
    const R whole = __builtin_convertvector(n, R), r = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
    R p = R{} + 1.9875691500e-4f;
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      p = p * r + next;
    const I half = n >> 1;  // 2^n in two steps, since it may be subnormal
    const R y = (p * r * r + r + 1.0f) * bits_as<R>(I((half + 127) << 23)) * bits_as<R>(I((n - half + 127) << 23));
    return x == x ? y : x;
  }
}

}  // namespace fastlif::FASTLIF_TARGET
