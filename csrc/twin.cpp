// The GPU's threads on the host, one after another, in the grid in which the kernels are launched: what the tests run
// where there is no GPU. Takes the place of cpu.cpp beside module.cpp.

#include <stdexcept>
#include <vector>

#include "cuda_launch.h"

namespace fastlif {

void cpu_run(const Forward& p, Type x, Type spikes) {
  gpu::with_types(p, x, spikes, [&]<class T>() {
    const auto launch = gpu::launch_of<T>(p);
    const int64_t threads = gpu::blocks(p.neurons, T::P, gpu::kBlock) * gpu::kBlock;
    for (int64_t i = 0; i < threads; ++i) T::forward(launch, i * T::P);
  });
}

void cpu_run(const Backward& p, Type x, Type spikes) {
  gpu::with_types(p, x, spikes, [&]<class T>() {
    constexpr int kThreads = gpu::threads<T>();
    const auto launch = gpu::launch_of<T>(p);
    const int64_t threads = gpu::blocks(p.neurons, T::P, kThreads) * kThreads;
    std::vector<char> shared(gpu::scratch_bytes<T>());
    for (int64_t i = 0; i < threads; ++i) {
      const gpu::ScratchOf<T> scratch(shared.data(), int(i % kThreads), kThreads);
      gpu::reverse<T>(launch, i * T::P, scratch);
    }
  });
}

// Of the CPU alone: a GPU's batch norm goes another way (fastlif/ops/batch_norm.py).
void cpu_finish(const Backward&, Type) { throw std::logic_error("the twin finishes nothing in place"); }

const char* cpu_instruction_set() { return "twin"; }

}  // namespace fastlif
