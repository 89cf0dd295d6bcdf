// The CPU backend's loops for bfloat16.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<float, BFloat16, BFloat16>(const Forward&);
template void run_types<float, BFloat16, BFloat16>(const Backward&);

}  // namespace fastlif
