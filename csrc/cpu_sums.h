// Sums over channels, of a matrix's elements and of their squares, in float64. Included like cpu_block.h.

namespace fastlif::FASTLIF_TARGET {

template <class F, class X>
struct SumsLoop {
  static constexpr int W = FASTLIF_BYTES / sizeof(F), kHalf = FASTLIF_BYTES / 8;
  using D = Vec<double, kHalf>;

  // A run of neurons of one channel, through all rows.
  static void run(const ChannelSums& p, int64_t first, int64_t count, double& sum, double& squares) {
    D sums[W / kHalf]{}, second[W / kHalf]{};
    for (int64_t r = 0; r < p.count; ++r) {
      const X* x = static_cast<const X*>(p.rows) + r * p.stride + first;
      int64_t n = 0;
      for (; n + W <= count; n += W) {
        __builtin_prefetch(x + p.stride + n);  // the next row, as in cpu_forward.h
        add(load<W>(x + n, W), sums, second);
      }
      if (n < count) add(load<W>(x + n, count - n), sums, second);
    }
    for (int i = 0; i < W / kHalf; ++i)
      for (int k = 0; k < kHalf; ++k) sum += sums[i][k], squares += second[i][k];
  }

  // Whole periods of neurons of all channels, inner elements of each in turn: element i of a period into sums[i].
  static void periods(const ChannelSums& p, int64_t first, int64_t count, double* sums, double* squares) {
    const int64_t period = p.inner * p.channels;
    for (int64_t r = 0; r < p.count; ++r) {
      for (int64_t q = first; q < first + count; ++q) {
        const X* x = static_cast<const X*>(p.rows) + r * p.stride + q * period;
        for (int64_t n = 0; n < period; n += W) {
          const int here = std::min<int64_t>(W, period - n);
          D own[W / kHalf], second[W / kHalf];
          for (int i = 0; i < W / kHalf; ++i) {
            own[i] = load<kHalf>(sums + n + i * kHalf, kHalf);
            second[i] = load<kHalf>(squares + n + i * kHalf, kHalf);
          }
          add(load<W>(x + n, here), own, second);
          for (int i = 0; i < W / kHalf; ++i) {
            store<double>(sums + n + i * kHalf, own[i], kHalf, false);
            store<double>(squares + n + i * kHalf, second[i], kHalf, false);
          }
        }
      }
    }
  }

 private:
  static FASTLIF_INLINE void add(const Vec<F, W>& x, D* sums, D* squares) {
    Vec<F, kHalf> part[W / kHalf];
    std::memcpy(part, &x, sizeof(x));
    for (int i = 0; i < W / kHalf; ++i) {
      const D wide = __builtin_convertvector(part[i], D);
      sums[i] = sums[i] + wide;
      squares[i] = squares[i] + wide * wide;
    }
  }
};

}  // namespace fastlif::FASTLIF_TARGET
