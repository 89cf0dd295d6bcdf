// The loops for one instruction set: cpu.cpp includes this between the compiler's target pragmas, with FASTLIF_BYTES.

#if FASTLIF_BYTES == 64
#define FASTLIF_TARGET avx512
#elif FASTLIF_BYTES == 32
#define FASTLIF_TARGET avx2
#else
#define FASTLIF_TARGET plain
#endif

#include "neuron.h"
#include "lanes.h"
#include "cpu_block.h"
#include "cpu_forward.h"
#include "cpu_backward.h"
#include "cpu_sums.h"

#undef FASTLIF_TARGET
#undef FASTLIF_BYTES
