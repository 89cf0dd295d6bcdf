// The operators on channels (fastlif/ops/channels.py): their schemas, and the few that need no kernel on a CPU.

#include "channels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "tensors.h"

namespace fastlif {
namespace {

template <class Body>
void for_channels(const Body& body, const Parts& p, const Tensor& on) {
#ifdef FASTLIF_CUDA
  if (!on.is_cpu()) return cuda_for_channels(body, p, on.get_device_index());
#endif
  for (int64_t c = 0; c < p.channels; ++c) {
    double first = 0, second = 0;
    for (int64_t i = 0; i < p.parts; ++i) {
      first += p.sums[2 * i * p.channels + c];
      second += p.sums[(2 * i + 1) * p.channels + c];
    }
    body(c, first, second);
  }
}

Parts parts_of(const Tensor& sums) {
  STD_TORCH_CHECK(sums.dim() == 3 && sums.size(1) == 2 && sums.is_contiguous(), "fastlif: not sums of channels");
  return {static_cast<const double*>(sums.data_ptr()), sums.size(0), sums.size(2)};
}

template <class F>
F* numbers(const Tensor& t) {
  return static_cast<F*>(t.data_ptr());
}

template <class F>
const F* numbers(const MaybeTensor& t) {
  return static_cast<const F*>(data(t));
}

// Calls run.template operator()<F>() for float32 or float64.
template <class Run>
void with_type(const Tensor& t, const Run& run) {
  type_of(t) == Type::float64 ? run.template operator()<double>() : run.template operator()<float>();
}

// Of rows [R, N] into parts [parts, 1 or 2, channels], float64: sums, and squares where there is room for them.
void channel_sums(Tensor rows, int64_t inner, Tensor parts) {
  double* to = static_cast<double*>(parts.data_ptr());
  const int64_t channels = parts.size(2);
  const ChannelSums p{rows.data_ptr(),
                      rows.size(0),
                      rows.stride(0),
                      rows.size(1),
                      inner,
                      channels,
                      parts.size(0),
                      parts.stride(0),
                      to,
                      parts.size(1) == 2 ? to + parts.stride(1) : nullptr};
#ifdef FASTLIF_CUDA
  if (!rows.is_cpu()) return cuda_channel_sums(p, type_of(rows), rows.get_device_index());
#endif
  cpu_channel_sums(p, type_of(rows));
}

// [channels] each: mean, 1 / deviation, and the variance of a sample.
void statistics(Tensor sums, double count, double eps, Tensor mean, Tensor inverse, Tensor unbiased) {
  with_type(mean, [&]<class F>() {
    const Statistics<F> body{count, eps, numbers<F>(mean), numbers<F>(inverse), numbers<F>(unbiased)};
    for_channels(body, parts_of(sums), mean);
  });
}

// [channels] each.
void affine(MaybeTensor weight, MaybeTensor bias, Tensor mean, Tensor inverse, Tensor scale, Tensor shift) {
  with_type(scale, [&]<class F>() {
    const AffineOf<F> body{numbers<F>(weight),  numbers<F>(bias),  numbers<F>(mean),
                           numbers<F>(inverse), numbers<F>(scale), numbers<F>(shift)};
    for_channels(body, {nullptr, 0, scale.size(0)}, scale);
  });
}

// [channels] each.
void gradients(Tensor sums, double count, Tensor inverse, Tensor scale, Tensor weight, Tensor bias, Tensor slope,
               Tensor offset) {
  with_type(scale, [&]<class F>() {
    const Gradients<F> body{count,
                            numbers<F>(inverse),
                            numbers<F>(scale),
                            numbers<F>(weight),
                            numbers<F>(bias),
                            numbers<F>(slope),
                            numbers<F>(offset)};
    for_channels(body, parts_of(sums), scale);
  });
}

}  // namespace
}  // namespace fastlif

STABLE_TORCH_LIBRARY_FRAGMENT(fastlif, m) {
  m.def("native_channel_sums(Tensor rows, int inner, Tensor(a!) parts) -> ()");
  m.def(
      "native_statistics(Tensor sums, float count, float eps, Tensor(a!) mean, Tensor(b!) inverse,"
      " Tensor(c!) unbiased) -> ()");
  m.def(
      "native_affine(Tensor? weight, Tensor? bias, Tensor mean, Tensor inverse, Tensor(a!) scale, Tensor(b!) shift)"
      " -> ()");
  m.def(
      "native_gradients(Tensor sums, float count, Tensor inverse, Tensor scale, Tensor(a!) gweight, Tensor(b!) gbias,"
      " Tensor(c!) slope, Tensor(d!) offset) -> ()");
}

#define FASTLIF_CHANNELS(m)                                         \
  m.impl("native_channel_sums", TORCH_BOX(&fastlif::channel_sums)); \
  m.impl("native_statistics", TORCH_BOX(&fastlif::statistics));     \
  m.impl("native_affine", TORCH_BOX(&fastlif::affine));             \
  m.impl("native_gradients", TORCH_BOX(&fastlif::gradients));

STABLE_TORCH_LIBRARY_IMPL(fastlif, CPU, m){FASTLIF_CHANNELS(m)}
#ifdef FASTLIF_CUDA
STABLE_TORCH_LIBRARY_IMPL(fastlif, CUDA, m) {
  FASTLIF_CHANNELS(m)
}
#endif
