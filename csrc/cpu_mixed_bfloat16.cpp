// The CPU backend's loops for float32 with spikes of bfloat16, as under autocast.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<float, float, BFloat16>(const Forward&);
template void run_types<float, float, BFloat16>(const Backward&);

}  // namespace fastlif
