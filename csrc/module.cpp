// The compiled operators: their schemas, and from tensors to a Problem. Python has checked what a user can get wrong
// (fastlif/functional.py) and brought every tensor into the order of memory (fastlif/ops/call.py).

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <string>
#include <vector>

#include "tensors.h"

namespace fastlif {
namespace {

int64_t size_of(Type type) { return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2; }

Param param(const MaybeTensor& t, int64_t inner) { return t ? Param{t->data_ptr(), t->numel(), inner} : Param{}; }

// Sizes [T, N], `x` the dtype of the input; `inner` of decay, gain, threshold and of channels.
Problem problem(int64_t steps, int64_t neurons, Type x, const MaybeTensor* params, const MaybeTensor& scale,
                const MaybeTensor& shift, const MaybeTensor& v0, const Tensor& state, const std::vector<double>& values,
                const std::vector<int64_t>& options, const std::vector<int64_t>& inner) {
  STD_TORCH_CHECK(values.size() == 8 && options.size() == 9 && inner.size() == 4, "fastlif: not a neuron's numbers");
  Problem p{};
  p.options = {Reset(options[0]), Surrogate(options[1]), options[2] != 0, options[3] != 0,
               options[4] != 0,   options[5] != 0,       Keep(options[8])};
  p.schedule = {steps, options[6], options[7]};
  p.neurons = neurons;
  const int64_t compute = x == Type::float64 ? 8 : 4;
  p.layout = Layout::of(p.schedule, p.options.keep, p.neurons, compute, size_of(x), bool(scale));
  STD_TORCH_CHECK(state.numel() == p.layout.rows_at + p.schedule.rows() * p.layout.row_bytes, "fastlif: the state has ",
                  state.numel(), " bytes and should have ", p.layout.rows_at + p.schedule.rows() * p.layout.row_bytes);
  std::copy(values.begin(), values.end(), p.values);
  for (int i = 0; i < 3; ++i) p.params[i] = param(params[i], inner[i]);
  p.scale = param(scale, inner[3]);
  p.shift = param(shift, inner[3]);
  p.v0 = data(v0);
  return p;
}

template <class P>
void run(const P& p, const Tensor& on, Type x, Type spikes) {
  if (on.is_cpu()) return cpu_run(p, x, spikes);
#ifdef FASTLIF_CUDA
  cuda_run(p, x, spikes, on.get_device_index());
#endif
}

void native_forward(Tensor x, MaybeTensor v0, MaybeTensor decay, MaybeTensor gain, MaybeTensor threshold,
                    MaybeTensor scale, MaybeTensor shift, std::vector<double> values, std::vector<int64_t> options,
                    std::vector<int64_t> inner, Tensor spikes, Tensor v, Tensor state, MaybeTensor bits) {
  const MaybeTensor params[3] = {decay, gain, threshold};
  Forward p{problem(x.size(0), v.numel(), type_of(x), params, scale, shift, v0, state, values, options, inner)};
  p.x = x.data_ptr();
  p.x_stride = x.stride(0);
  p.spikes = spikes.data_ptr();
  p.v = v.data_ptr();
  p.state = static_cast<uint8_t*>(state.data_ptr());
  p.bits = static_cast<uint8_t*>(data(bits));
  run(p, x, type_of(x), type_of(spikes));
}

void native_backward(MaybeTensor gs, MaybeTensor gv, MaybeTensor x, MaybeTensor v0, MaybeTensor decay, MaybeTensor gain,
                     MaybeTensor threshold, MaybeTensor scale, MaybeTensor shift, MaybeTensor mean, MaybeTensor slope,
                     MaybeTensor offset, Tensor state, MaybeTensor bits, std::vector<int64_t> size, int64_t dtype,
                     std::vector<double> values, std::vector<int64_t> options, std::vector<int64_t> inner,
                     MaybeTensor gx, MaybeTensor gv0, MaybeTensor gdecay, MaybeTensor ggain, MaybeTensor gthreshold,
                     MaybeTensor gshift, MaybeTensor gscale, MaybeTensor sums, MaybeTensor inverse, double count) {
  const MaybeTensor params[3] = {decay, gain, threshold};
  const Type type = Type(dtype);
  Backward p{problem(size.at(0), size.at(1), type, params, scale, shift, v0, state, values, options, inner)};
  p.x = data(x);
  p.x_stride = x ? x->stride(0) : 0;
  p.gs = data(gs);
  p.gs_stride = gs ? gs->stride(0) : 0;
  p.gv = data(gv);
  p.state = static_cast<const uint8_t*>(state.data_ptr());
  p.bits = static_cast<const uint8_t*>(data(bits));
  p.mean = param(mean, inner[3]);
  p.slope = param(slope, inner[3]);
  p.offset = param(offset, inner[3]);
  p.gx = data(gx);
  p.gx_stride = p.neurons;
  p.gv0 = data(gv0);
  p.gdecay = data(gdecay);
  p.ggain = data(ggain);
  p.gthreshold = data(gthreshold);
  p.gshift = data(gshift);
  p.gscale = data(gscale);
  p.sums = static_cast<double*>(data(sums));
  p.inverse = data(inverse);
  p.count = count;
  run(p, state, type, gs ? type_of(*gs) : type);
}

// In place of dL/dx in gx [T, N]: scale * dL/dx - slope * (x - mean) - offset, float32 or float64.
void native_finish(Tensor gx, Tensor x, Tensor scale, Tensor mean, Tensor slope, Tensor offset, int64_t inner) {
  Backward p{};
  p.schedule = {gx.size(0), 0, 0};
  p.neurons = gx.size(1);
  p.gs = p.gx = gx.data_ptr();
  p.gs_stride = p.gx_stride = p.neurons;
  p.x = x.data_ptr();
  p.x_stride = x.stride(0);
  p.scale = param(scale, inner);
  p.mean = param(mean, inner);
  p.slope = param(slope, inner);
  p.offset = param(offset, inner);
  cpu_finish(p, type_of(gx));
}

std::string instruction_set() { return cpu_instruction_set(); }

}  // namespace
}  // namespace fastlif

STABLE_TORCH_LIBRARY_FRAGMENT(fastlif, m) {
  m.def("instruction_set() -> str");
  m.def(
      "native_forward(Tensor x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold, Tensor? scale, Tensor? "
      "shift, float[] values, int[] options, int[] inner, Tensor(a!) spikes, Tensor(b!) v, Tensor(c!) state,"
      " Tensor(d!)? bits) -> ()");
  m.def(
      "native_backward(Tensor? gs, Tensor? gv, Tensor? x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold,"
      " Tensor? scale, Tensor? shift, Tensor? mean, Tensor? slope, Tensor? offset, Tensor state, Tensor? bits,"
      " int[] size, int dtype, float[] values, int[] options, int[] inner, Tensor(a!)? gx, Tensor(b!)? gv0,"
      " Tensor(c!)? gdecay, Tensor(d!)? ggain, Tensor(e!)? gthreshold, Tensor(f!)? gshift, Tensor(g!)? gscale,"
      " Tensor(h!)? sums, Tensor? inverse, float count) -> ()");
  m.def(
      "native_finish(Tensor(a!) gx, Tensor x, Tensor scale, Tensor mean, Tensor slope, Tensor offset, int inner) -> "
      "()");
}

STABLE_TORCH_LIBRARY_IMPL(fastlif, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&fastlif::instruction_set));
}

STABLE_TORCH_LIBRARY_IMPL(fastlif, CPU, m) {
  m.impl("native_forward", TORCH_BOX(&fastlif::native_forward));
  m.impl("native_backward", TORCH_BOX(&fastlif::native_backward));
  m.impl("native_finish", TORCH_BOX(&fastlif::native_finish));
}

#ifdef FASTLIF_CUDA
STABLE_TORCH_LIBRARY_IMPL(fastlif, CUDA, m) {
  m.impl("native_forward", TORCH_BOX(&fastlif::native_forward));
  m.impl("native_backward", TORCH_BOX(&fastlif::native_backward));
}
#endif
