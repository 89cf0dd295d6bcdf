// What the operators ask of tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "run.h"

namespace fastlif {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return Type::float64;
    case ScalarType::Float: return Type::float32;
    case ScalarType::BFloat16: return Type::bfloat16;
    case ScalarType::Half: return Type::float16;
    default: STD_TORCH_CHECK(false, "fastlif: unsupported dtype");
  }
}

inline void* data(const MaybeTensor& t) { return t ? t->data_ptr() : nullptr; }

}  // namespace fastlif
