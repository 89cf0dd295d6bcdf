// From a problem to the kernel that runs it and its grid.
#pragma once

#include <algorithm>
#include <limits>

#include "cuda_reverse.h"
#include "run.h"

namespace fastlif::gpu {

constexpr int kBlock = 128;  // threads

// Threads of a block in backward, and bytes of its scratch: with recomputation, no more than 48 KB.
template <class T>
constexpr int threads() {
  return T::kKept != Kept::input ? kBlock : T::kNorm == Norm::none ? 64 : 32;
}
template <class T>
constexpr int scratch_bytes() {
  return std::max(threads<T>() * ScratchOf<T>::kBytes, 1);
}

inline int64_t blocks(int64_t neurons, int per_thread, int threads) {
  const int64_t each = int64_t(per_thread) * threads;
  return (neurons + each - 1) / each;
}

inline int64_t in_step(const Forward& p, int x_bytes, int) { return p.x_stride * x_bytes; }
inline int64_t in_step(const Backward& p, int, int spike_bytes) { return p.gs_stride * spike_bytes; }
inline int64_t out_step(const Forward& p, int, int spike_bytes) { return p.neurons * spike_bytes; }
inline int64_t out_step(const Backward& p, int x_bytes, int) { return p.neurons * x_bytes; }

template <class T, class Problem>
auto launch_of(const Problem& p) -> Launch<Problem, typename T::F> {
  using F = typename T::F;
  const double* u = p.values;
  const Schedule& s = p.schedule;
  const int steps = int(s.steps), cut = int(std::min<int64_t>(s.cut, kMostSteps));
  const int tail = s.whole() ? 0 : int(std::min<int64_t>(s.tail, kMostSteps));
  return {p,
          {F(u[0]), F(u[1]), F(u[2]), F(u[3]), F(u[4]), F(u[5]), F(u[6]), F(u[7]), firing(p.options, F(u[3])),
           inverse(F(u[6])), is_power_of_two(u[6])},
          steps,
          cut,
          tail,
          cut > 0 && steps > 0 ? (steps - 1) / cut * cut : 0,
          s.rows(),
          s.borders(),
          in_step(p, sizeof(typename T::X), sizeof(typename T::S)),
          out_step(p, sizeof(typename T::X), sizeof(typename T::S))};
}

// Whether a pack at `data` and one `step` bytes on lie where a single access, or accesses of 16 bytes, can reach them.
inline bool aligned(const void* data, int64_t step, int pack_bytes) {
  return (reinterpret_cast<uintptr_t>(data) | uint64_t(step)) % std::min(pack_bytes, 16) == 0;
}

// Whether that is so of every access to `pack` neurons.
template <class F, class X, class S>
bool packs(const Problem& p, int pack) {
  return p.neurons % pack == 0 && aligned(p.x, p.x_stride * sizeof(X), pack * sizeof(X)) && aligned(p.v0, 0, 16);
}
template <class F, class X, class S>
bool packs(const Forward& p, int pack) {
  return packs<F, X, S>(static_cast<const Problem&>(p), pack) && aligned(p.spikes, 0, 16) && aligned(p.v, 0, 16) &&
         aligned(p.state, 0, 16);
}
template <class F, class X, class S>
bool packs(const Backward& p, int pack) {
  bool all = packs<F, X, S>(static_cast<const Problem&>(p), pack);
  for (const void* data : {p.gv, static_cast<const void*>(p.state)}) all = all && aligned(data, 0, 16);
  for (const void* data : {p.gx, p.gv0, p.gdecay, p.ggain, p.gthreshold, p.gshift, p.gscale})
    all = all && aligned(data, 0, 16);
  return all && aligned(p.gs, p.gs_stride * sizeof(S), pack * sizeof(S));
}

inline bool common(const Forward&) { return true; }
inline bool common(const Backward& p) { return p.gs && !p.gdecay && !p.ggain && !p.gthreshold; }

// Whether `pack` neurons that lie together have one number.
inline bool shared(const Param& param, int pack) { return !param.data || param.size == 1 || param.inner % pack == 0; }

// Whether Thread's kLean holds for `pack` neurons that lie together.
template <class Problem>
bool lean(const Problem& p, int pack) {
  for (const Param& param : p.params)
    if (!shared(param, pack)) return false;
  return p.options.spiking && p.schedule.whole() && common(p);
}

// Calls run.template operator()<Thread<...>>().
template <class F, class X, class S, int P, bool kLean, class Problem, class Run>
auto with_kept(const Problem& p, const Run& run) {
  const auto as = [&]<Kept kKept, Norm kNorm>() {
    return run.template operator()<Thread<F, X, S, P, kLean, kKept, kNorm>>();
  };
  if (p.scale.data) {
    if constexpr (kLean)
      if (shared(p.scale, P)) return as.template operator()<Kept::input, Norm::shared>();
    return as.template operator()<Kept::input, Norm::each>();
  }
  if (p.options.keep == Keep::input) return as.template operator()<Kept::input, Norm::none>();
  if (p.options.keep == Keep::code) return as.template operator()<Kept::code, Norm::none>();
  return as.template operator()<Kept::bits, Norm::none>();
}

template <class F, class X, class S, class Problem, class Run>
auto with_pack(const Problem& p, const Run& run) {
  constexpr int kFull = 16 / sizeof(X);
  if constexpr (sizeof(X) < 8) {
    if constexpr (std::is_same_v<X, S>)
      if (packs<F, X, S>(p, kFull) && lean(p, kFull)) return with_kept<F, X, S, kFull, true>(p, run);
    if (packs<F, X, S>(p, 4)) return with_kept<F, X, S, 4, false>(p, run);
  }
  return with_kept<F, X, S, 1, false>(p, run);
}

template <class Problem, class Run>
auto with_types(const Problem& p, Type x, Type spikes, const Run& run) {
  if (x == Type::float64) return with_pack<double, double, double>(p, run);
  if (x == Type::bfloat16) return with_pack<float, BFloat16, BFloat16>(p, run);
  if (x == Type::float16) return with_pack<float, Half, Half>(p, run);
  if (spikes == Type::bfloat16) return with_pack<float, float, BFloat16>(p, run);
  if (spikes == Type::float16) return with_pack<float, float, Half>(p, run);
  return with_pack<float, float, float>(p, run);
}

}  // namespace fastlif::gpu
