// What a unit of the CPU backend is made of: the loops for every instruction set, and how they run over blocks of
// neurons on PyTorch's threads. A unit compiles them for some types (cpu_float.cpp and others), so that units build
// side by side.
#pragma once

#include "channels.h"
#include "cpu_types.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastlif {

// A thread's buffers, each of `capacity` numbers; h has kChunk of them.
template <class F>
struct Workspace {
  int64_t capacity;
  F *v, *v0, *g, *gdecay, *ggain, *gthreshold, *gshift, *gscale, *decay, *gain, *threshold, *scale, *shift, *mean,
      *slope, *offset, *h;
};

}  // namespace fastlif

#define FASTLIF_BYTES 16
#include "cpu_loops.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define FASTLIF_BYTES 32
#include "cpu_loops.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define FASTLIF_BYTES 64
#include "cpu_loops.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace fastlif {

// The function of this name for this machine's instruction set.
#if defined(__x86_64__)
#define FASTLIF_BEST(...) \
  (isa() == Isa::avx512 ? avx512::__VA_ARGS__ : isa() == Isa::avx2 ? avx2::__VA_ARGS__ : plain::__VA_ARGS__)
#else
#define FASTLIF_BEST(...) plain::__VA_ARGS__
#endif

constexpr int64_t kGroupSize = 64;        // blocks are whole groups, so that no two threads share a byte of bits
constexpr int64_t kBlock = 8192;          // neurons whose membranes stay in cache
constexpr int64_t kBlockOfChunks = 2048;  // where kChunk steps of h stay there too
constexpr int64_t kSerial = 1 << 15;      // neuron-steps that are not worth a second thread
constexpr int64_t kPastCache = 16 << 20;  // bytes of output from which on it is written past the caches

template <class F>
class Buffers {
 public:
  Workspace<F> take(int64_t capacity, bool chunks) {
    const int64_t padded = capacity + kGroupSize, needed = padded * (chunks ? 16 + kChunk : 16) + kGroupSize;
    if (needed > size_) {
      memory_.reset(new F[needed]);
      size_ = needed;
    }
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory_.get());
    F* at = memory_.get() + (64 - address % 64) % 64 / sizeof(F);
    Workspace<F> w{padded};
    for (F** buffer : {&w.v, &w.v0, &w.g, &w.gdecay, &w.ggain, &w.gthreshold, &w.gshift, &w.gscale, &w.decay, &w.gain,
                       &w.threshold, &w.scale, &w.shift, &w.mean, &w.slope, &w.offset, &w.h}) {
      *buffer = at;
      at += padded;
    }
    return w;
  }

 private:
  std::unique_ptr<F[]> memory_;
  int64_t size_ = 0;
};

// Calls body(first, count, workspace) for every block, on all threads where that pays.
template <class F, class Body>
void over_blocks(int64_t neurons, int64_t steps, int64_t block, bool chunks, const Body& body) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t share = (neurons + threads - 1) / threads;
  block = std::min(block, (share + kGroupSize - 1) / kGroupSize * kGroupSize);
  const int64_t blocks = (neurons + block - 1) / block;
  const int64_t grain = std::max<int64_t>(1, kSerial / (block * std::max<int64_t>(steps, 1)));
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    thread_local Buffers<F> buffers;
    const Workspace<F> w = buffers.take(block, chunks);
    for (int64_t b = begin; b < end; ++b) body(b * block, std::min(block, neurons - b * block), w);
#if defined(__SSE2__)
    _mm_sfence();
#endif
  });
}

template <class F, class X, class S, bool tensors, bool normal>
void run_as(const Forward& p) {
  const bool past = p.neurons * p.schedule.steps * int64_t(sizeof(S)) >= kPastCache;
  const auto loop = FASTLIF_BEST(ForwardLoop<F, X, S, tensors, normal>::run);
  over_blocks<F>(p.neurons, p.schedule.steps, kBlock, false,
                 [&](int64_t first, int64_t count, const Workspace<F>& w) { loop(p, first, count, past, w); });
}

// Batch norm's backward, a channel at a time, which stays in the caches: dL/dx into a buffer, its sums, the gradient.
template <class F, class S, bool tensors>
void by_channel(const Backward& problem) {
  const auto loop = FASTLIF_BEST(BackwardLoop<F, F, S, tensors, true>::run);
  const auto sum = FASTLIF_BEST(SumsLoop<F, F>::run);
  const auto finish = FASTLIF_BEST(BackwardLoop<F, F, F, false, true>::finish);
  const int64_t steps = problem.schedule.steps, neurons = problem.neurons, inner = problem.scale.inner,
                channels = problem.scale.size, period = inner * channels;
  const int64_t block = std::min(kBlockOfChunks, (inner + kGroupSize - 1) / kGroupSize * kGroupSize);
  const int64_t blocks = (inner + block - 1) / block * (neurons / period);
  const bool past = neurons * steps * int64_t(sizeof(F)) >= kPastCache;
  std::vector<F> slopes(channels), offsets(channels);
  const Param slope{slopes.data(), channels, inner}, offset{offsets.data(), channels, inner};
  const ChannelSums by_neuron[2] = {{problem.gshift, 1, 0, neurons, inner, channels, 1, 0, nullptr, nullptr},
                                    {problem.gscale, 1, 0, neurons, inner, channels, 1, 0, nullptr, nullptr}};
  const int64_t grain = std::max<int64_t>(1, kSerial * channels / (neurons * steps));
  torch::stable::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
    thread_local Buffers<F> buffers;
    const Workspace<F> w = buffers.take(block, true);
    const std::unique_ptr<F[]> dx(new F[blocks * steps * block]);
    const auto over_runs = [&](int64_t channel, const auto& body) {
      F* at = dx.get();
      for (int64_t run = channel * inner; run < neurons; run += period)
        for (int64_t n = 0; n < inner; n += block, at += steps * block)
          body(run + n, std::min(block, inner - n), at - (run + n));
    };
    for (int64_t c = begin; c < end; ++c) {
      Backward p = problem;
      p.gx_stride = block;
      over_runs(c, [&](int64_t first, int64_t count, F* to) {
        p.gx = to;
        loop(p, first, count, false, w);
      });
      for (int i = 0; i < 2; ++i) {
        double& total = p.sums[i * channels + c];
        for (int64_t run = c * inner; run < neurons; run += period) {
          double own = 0, squares = 0;
          sum(by_neuron[i], run, inner, own, squares);
          total += own;
        }
      }
      const double scale = static_cast<const F*>(p.scale.data)[c], inverse = static_cast<const F*>(p.inverse)[c];
      slopes[c] = F(p.sums[channels + c] / p.count * inverse * inverse * scale);
      offsets[c] = F(p.sums[c] / p.count * scale);
      p = problem;
      p.slope = slope, p.offset = offset, p.gs_stride = block;
      over_runs(c, [&](int64_t first, int64_t count, const F* from) {
        p.gs = from;
        finish(p, first, count, past, w);
      });
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
  });
}

template <class F, class X, class S, bool tensors, bool normal>
void run_as(const Backward& p) {
  if constexpr (normal && std::is_same_v<F, X>)
    if (p.sums) return by_channel<F, S, tensors>(p);
  const bool past = p.neurons * p.schedule.steps * int64_t(sizeof(X)) >= kPastCache;
  const bool chunks = p.options.keep == Keep::input;
  const auto loop = FASTLIF_BEST(BackwardLoop<F, X, S, tensors, normal>::run);
  over_blocks<F>(p.neurons, p.schedule.steps, chunks ? kBlockOfChunks : kBlock, chunks,
                 [&](int64_t first, int64_t count, const Workspace<F>& w) { loop(p, first, count, past, w); });
}

template <class F, class X, class S, class P>
void run_any(const P& p) {
  const bool tensors = p.params[0].data || p.params[1].data || p.params[2].data;
  if (p.scale.data) return tensors ? run_as<F, X, S, true, true>(p) : run_as<F, X, S, false, true>(p);
  return tensors ? run_as<F, X, S, true, false>(p) : run_as<F, X, S, false, false>(p);
}

template <class F, class X, class S>
void run_types(const Forward& p) {
  run_any<F, X, S>(p);
}

template <class F, class X, class S>
void run_types(const Backward& p) {
  run_any<F, X, S>(p);
}

template <class F>
void finish_type(const Backward& p) {
  const auto loop = FASTLIF_BEST(BackwardLoop<F, F, F, false, true>::finish);
  over_blocks<F>(p.neurons, p.schedule.steps, kBlock, false,
                 [&](int64_t first, int64_t count, const Workspace<F>& w) { loop(p, first, count, false, w); });
}

}  // namespace fastlif
