// Planes of spikes: a bit for each neuron, rows of whole bytes; neuron n is bit n % 8 of byte n // 8.
#pragma once

#include <cstdint>

namespace fastlif {

// Numbers by their bits: U is an unsigned integer of their size, `one` the bits of 1.
template <class U>
struct Plane {
  uint8_t* bits;
  U* values;
  int64_t bits_stride, values_stride;  // from row to row
  int64_t rows, neurons;
  U one;
};

template <class U>
void cuda_pack(const Plane<U>& plane, int device);
template <class U>
void cuda_unpack(const Plane<U>& plane, int device);

}  // namespace fastlif
