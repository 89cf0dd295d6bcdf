// From a problem to the kernel that runs it and its grid, for the GPU and for its twin on the host.
#pragma once

#include <limits>

#include "cuda_loops.h"
#include "run.h"

namespace fastlif::gpu {

constexpr int kBlock = 128;  // threads

// Threads a block: with recomputation, as many as 32 KB of scratch serve.
template <class F, int P, Kept kKept>
constexpr int threads() {
  return kKept == Kept::input && sizeof(F) * P > 16 ? kBlock / 2 : kBlock;
}

// 16-byte parts of the block's scratch.
template <class F, int P, Kept kKept>
constexpr int scratch_parts() {
  return kKept == Kept::input ? kChunk * Scratch<F, P>::kParts * threads<F, P, kKept>() : 1;
}

inline int64_t blocks(int64_t neurons, int per_thread, int threads) {
  const int64_t each = int64_t(per_thread) * threads;
  return (neurons + each - 1) / each;
}

template <class F, class Problem>
Launch<Problem, F> launch_of(const Problem& p) {
  const double* u = p.values;
  const Schedule& s = p.schedule;
  const int64_t last_window = s.cut > 0 && s.steps > 0 ? (s.steps - 1) / s.cut * s.cut : 0;
  const F equal = p.options.fire_on_equal ? F(u[3]) : std::numeric_limits<F>::quiet_NaN();
  return {p, {F(u[0]), F(u[1]), F(u[2]), F(u[3]), F(u[4]), F(u[5]), F(u[6]), F(u[7]), equal}, last_window, s.rows(), s.borders()};
}

inline bool aligned(const void* data, int64_t stride_bytes = 0) {
  return (reinterpret_cast<uintptr_t>(data) | uint64_t(stride_bytes)) % 16 == 0;
}

// Whether every access of `pack` neurons is aligned.
inline bool packs(const Problem& p, int pack, int x_bytes) {
  return p.neurons % pack == 0 && aligned(p.x, p.x_stride * x_bytes) && aligned(p.v0);
}
inline bool packs(const Forward& p, int pack, int x_bytes, int) {
  return packs(p, pack, x_bytes) && aligned(p.spikes) && aligned(p.v) && aligned(p.state);
}
inline bool packs(const Backward& p, int pack, int x_bytes, int spike_bytes) {
  return packs(p, pack, x_bytes) && aligned(p.gs, p.gs_stride * spike_bytes) && aligned(p.gv) && aligned(p.state) &&
         aligned(p.gx) && aligned(p.gv0) && aligned(p.gdecay) && aligned(p.ggain) && aligned(p.gthreshold);
}

inline bool sums(const Forward&) { return false; }
inline bool sums(const Backward& p) { return p.gdecay || p.ggain || p.gthreshold; }

// Whether `pack` neurons that lie together have the same numbers, and no sums are asked for.
template <class Problem>
bool lean(const Problem& p, int pack) {
  for (const Param& param : p.params)
    if (param.data && param.size > 1 && param.inner % pack != 0) return false;
  return !sums(p);
}

// Calls run.template operator()<F, X, S, P, kLean>().
template <class F, class X, class S, class Problem, class Run>
auto with_pack(const Problem& p, const Run& run) {
  constexpr int P = 16 / sizeof(X);
  if (!packs(p, P, sizeof(X), sizeof(S))) return run.template operator()<F, X, S, 1, false>();
  if constexpr (sizeof(X) < 8)
    if (lean(p, P)) return run.template operator()<F, X, S, P, true>();
  return run.template operator()<F, X, S, P, false>();
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

// For Backward: calls run.template operator()<kKept>().
template <class Run>
auto with_kept(Keep keep, const Run& run) {
  if (keep == Keep::input) return run.template operator()<Kept::input>();
  if (keep == Keep::code) return run.template operator()<Kept::code>();
  return run.template operator()<Kept::bits>();
}

}  // namespace fastlif::gpu
