// The CPU backend's loops for float16.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<float, Half, Half>(const Forward&);
template void run_types<float, Half, Half>(const Backward&);

}  // namespace fastlif
