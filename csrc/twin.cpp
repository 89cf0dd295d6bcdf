// The GPU's threads on the host, one after another, in the grid in which the kernels are launched: what the tests run
// where there is no GPU. Takes the place of cpu.cpp beside module.cpp.

#include <vector>

#include "cuda_launch.h"

namespace fastlif {

void cpu_run(const Forward& p, Type x, Type spikes) {
  gpu::with_types(p, x, spikes, [&]<class F, class X, class S, int P, bool kLean, gpu::Kept kKept>() {
    const auto launch = gpu::launch_of<F, X, S>(p);
    const int64_t threads = gpu::blocks(p.neurons, P, gpu::kBlock) * gpu::kBlock;
    for (int64_t i = 0; i < threads; ++i) gpu::Thread<F, X, S, P, kLean, kKept>::forward(launch, i * P);
  });
}

void cpu_run(const Backward& p, Type x, Type spikes) {
  gpu::with_types(p, x, spikes, [&]<class F, class X, class S, int P, bool kLean, gpu::Kept kKept>() {
    constexpr int kThreads = gpu::threads<kKept>();
    const auto launch = gpu::launch_of<F, X, S>(p);
    const int64_t threads = gpu::blocks(p.neurons, P, kThreads) * kThreads;
    std::vector<char> shared(gpu::scratch_bytes<F, X, S, P, kKept>());
    for (int64_t i = 0; i < threads; ++i) {
      const gpu::Scratch<F, X, S, P, gpu::kChunkSteps> scratch(shared.data(), int(i % kThreads), kThreads);
      gpu::reverse<F, X, S, P, kLean, kKept>(launch, i * P, scratch);
    }
  });
}

const char* cpu_instruction_set() { return "twin"; }

}  // namespace fastlif
