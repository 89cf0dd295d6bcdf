// The CPU backend's loops for float32.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<float, float, float>(const Forward&);
template void run_types<float, float, float>(const Backward&);
template void finish_type<float>(const Backward&);

}  // namespace fastlif
