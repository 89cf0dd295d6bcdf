// The CPU backend's loops for float32 with spikes of float16, as under autocast.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<float, float, Half>(const Forward&);
template void run_types<float, float, Half>(const Backward&);

}  // namespace fastlif
