// Spikes into planes of bits and back: the operators fastlif::pack_bits and fastlif::unpack_bits
// (fastlif/ops/planes.py).

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "planes.h"

namespace fastlif {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 4096;  // bytes of a plane that one thread takes at a time

template <class U>
uint8_t pack_byte(const U* values, int64_t count) {
  uint8_t byte = 0;
  for (int64_t i = 0; i < count; ++i) byte |= uint8_t(U(values[i] << 1) != 0) << i;  // -0 is 0
  return byte;
}

template <class U>
void pack_bytes(const U* values, int64_t count, uint8_t* bits) {
  constexpr int64_t kGroup = 64;
  int64_t n = 0;
  for (; n + kGroup <= count; n += kGroup) {
    uint8_t fired[kGroup];
    for (int64_t i = 0; i < kGroup; ++i) fired[i] = U(values[n + i] << 1) != 0;
    for (int64_t i = 0; i < kGroup; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, fired + i, 8);
      bits[(n + i) / 8] = uint8_t(eight * 0x0102040810204080u >> 56);
    }
  }
  for (; n < count; n += 8) bits[n / 8] = pack_byte(values + n, std::min<int64_t>(8, count - n));
}

template <class U>
using Table = std::array<std::array<U, 8>, 256>;  // the eight values of every byte

template <class U>
Table<U> table_of(U one) {
  Table<U> table{};
  for (int byte = 0; byte < 256; ++byte)
    for (int i = 0; i < 8; ++i) table[byte][i] = byte >> i & 1 ? one : U(0);
  return table;
}

template <class U>
void unpack_bytes(const Table<U>& table, const uint8_t* bits, int64_t count, U* values) {
  for (int64_t n = 0; n + 8 <= count; n += 8) std::memcpy(values + n, table[bits[n / 8]].data(), 8 * sizeof(U));
  if (const int64_t rest = count % 8)
    std::memcpy(values + count - rest, table[bits[count / 8]].data(), rest * sizeof(U));
}

// Calls body(bits, values, neurons) for every block of every row, on all threads.
template <class U, class Body>
void over_blocks(const Plane<U>& p, const Body& body) {
  const int64_t blocks = (p.neurons + 8 * kBlock - 1) / (8 * kBlock);
  torch::stable::parallel_for(0, p.rows * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, byte = i % blocks * kBlock;
      body(p.bits + row * p.bits_stride + byte, p.values + row * p.values_stride + 8 * byte,
           std::min(8 * kBlock, p.neurons - 8 * byte));
    }
  });
}

template <class U>
void run(const Plane<U>& p, bool packs, const Tensor& on) {
#ifdef FASTLIF_CUDA
  if (!on.is_cpu()) {
    const int device = on.get_device_index();
    return packs ? cuda_pack(p, device) : cuda_unpack(p, device);
  }
#endif
  if (packs) return over_blocks(p, [](uint8_t* bits, const U* values, int64_t n) { pack_bytes(values, n, bits); });
  const Table<U> table = table_of(p.one);
  over_blocks(p, [&](const uint8_t* bits, U* values, int64_t n) { unpack_bytes(table, bits, n, values); });
}

template <class U>
void run(const Tensor& values, const Tensor& plane, U one, bool packs) {
  run<U>({static_cast<uint8_t*>(plane.data_ptr()), static_cast<U*>(values.data_ptr()), plane.stride(0),
          values.stride(0), values.size(0), values.size(1), one},
         packs, values);
}

void choose(const Tensor& values, const Tensor& plane, bool packs) {
  if (values.numel() == 0) return;
  STD_TORCH_CHECK(plane.size(0) == values.size(0) && plane.size(1) * 8 >= values.size(1),
                  "fastlif: the plane does not fit the neurons");
  switch (values.scalar_type()) {
    case ScalarType::Double: return run<uint64_t>(values, plane, 0x3ff0000000000000u, packs);
    case ScalarType::Float: return run<uint32_t>(values, plane, 0x3f800000u, packs);
    case ScalarType::BFloat16: return run<uint16_t>(values, plane, 0x3f80u, packs);
    case ScalarType::Half: return run<uint16_t>(values, plane, 0x3c00u, packs);
    default: STD_TORCH_CHECK(false, "fastlif: unsupported dtype");
  }
}

void pack_bits(Tensor values, Tensor plane) { choose(values, plane, true); }
void unpack_bits(Tensor plane, Tensor values) { choose(values, plane, false); }

}  // namespace
}  // namespace fastlif

STABLE_TORCH_LIBRARY_FRAGMENT(fastlif, m) {
  m.def("pack_bits(Tensor values, Tensor(a!) plane) -> ()");
  m.def("unpack_bits(Tensor plane, Tensor(a!) values) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastlif, CPU, m) {
  m.impl("pack_bits", TORCH_BOX(&fastlif::pack_bits));
  m.impl("unpack_bits", TORCH_BOX(&fastlif::unpack_bits));
}

#ifdef FASTLIF_CUDA
STABLE_TORCH_LIBRARY_IMPL(fastlif, CUDA, m) {
  m.impl("pack_bits", TORCH_BOX(&fastlif::pack_bits));
  m.impl("unpack_bits", TORCH_BOX(&fastlif::unpack_bits));
}
#endif
