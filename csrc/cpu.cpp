// The CPU backend: a problem to the loops of its types, the instruction set chosen when it first runs.

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "cpu_types.h"

namespace fastlif {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  Isa best = Isa::plain;
  if (__builtin_cpu_supports("avx2")) best = Isa::avx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    best = Isa::avx512;
  const char* wanted = std::getenv("FASTLIF_ISA");
  const std::string_view name = wanted ? wanted : "";
  if (name == "plain") return Isa::plain;
  if (name == "avx2") return std::min(best, Isa::avx2);
  return best;
#else
  return Isa::plain;
#endif
}

template <class P>
void choose(const P& p, Type x, Type spikes) {
  if (x == Type::float64) return run_types<double, double, double>(p);
  if (x == Type::bfloat16) return run_types<float, BFloat16, BFloat16>(p);
  if (x == Type::float16) return run_types<float, Half, Half>(p);
  if (spikes == Type::bfloat16) return run_types<float, float, BFloat16>(p);
  if (spikes == Type::float16) return run_types<float, float, Half>(p);
  return run_types<float, float, float>(p);
}

}  // namespace

Isa isa() {
  static const Isa chosen = detect();
  return chosen;
}

const char* cpu_instruction_set() { return isa() == Isa::avx512 ? "avx512" : isa() == Isa::avx2 ? "avx2" : "plain"; }

void cpu_run(const Forward& p, Type x, Type spikes) { choose(p, x, spikes); }
void cpu_run(const Backward& p, Type x, Type spikes) { choose(p, x, spikes); }

void cpu_finish(const Backward& p, Type x) { x == Type::float64 ? finish_type<double>(p) : finish_type<float>(p); }

}  // namespace fastlif
