// Sums over channels on a CPU.

#include "cpu_unit.h"

namespace fastlif {
namespace {

constexpr int64_t kFewest = 32;        // neurons of a channel side by side that are worth a loop of their own
constexpr int64_t kPeriods = 1 << 14;  // neurons, about, whose sums one task takes

// Tasks that are the same for any number of threads, each with sums of its own; then these in order.
template <class F, class X>
void sums_as(const ChannelSums& p) {
  const auto run = FASTLIF_BEST(SumsLoop<F, X>::run);
  const auto periods = FASTLIF_BEST(SumsLoop<F, X>::periods);
  const int64_t period = p.inner * p.channels, outer = p.neurons / period;
  const bool in_runs = p.inner >= kFewest;
  const int64_t each = in_runs ? 1 : std::max<int64_t>(1, kPeriods / period);  // periods a task
  const int64_t tasks = in_runs ? outer * p.channels : (outer + each - 1) / each;
  const int64_t padded = in_runs ? 1 : period + 16;
  std::vector<double> found(2 * tasks * padded);
  const int64_t work = p.count * p.neurons / std::max<int64_t>(tasks, 1);
  torch::stable::parallel_for(0, tasks, std::max<int64_t>(1, kSerial / std::max<int64_t>(work, 1)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  double* sums = found.data() + 2 * i * padded;
                                  if (in_runs) run(p, i * p.inner, p.inner, sums[0], sums[1]);
                                  else periods(p, i * each, std::min(each, outer - i * each), sums, sums + padded);
                                }
                              });
  for (int64_t i = 0; i < tasks; ++i) {
    const double* from = found.data() + 2 * i * padded;
    for (int64_t n = 0; n < (in_runs ? 1 : period); ++n) {
      const int64_t channel = in_runs ? i % p.channels : n / p.inner;
      p.sums[channel] += from[n];
      if (p.squares) p.squares[channel] += from[padded + n];
    }
  }
}

}  // namespace

void cpu_channel_sums(const ChannelSums& p, Type type) {
  if (type == Type::float64) return sums_as<double, double>(p);
  if (type == Type::float32) return sums_as<float, float>(p);
  if (type == Type::bfloat16) return sums_as<float, BFloat16>(p);
  sums_as<float, Half>(p);
}

}  // namespace fastlif
