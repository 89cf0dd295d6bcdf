// The CPU backend's loops for float64.

#include "cpu_unit.h"

namespace fastlif {

template void run_types<double, double, double>(const Forward&);
template void run_types<double, double, double>(const Backward&);
template void finish_type<double>(const Backward&);

}  // namespace fastlif
