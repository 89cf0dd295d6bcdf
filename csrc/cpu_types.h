// What the units of the CPU backend have in common: which types they are for, and which instruction set is here.
#pragma once

#include "run.h"

namespace fastlif {

enum class Isa { plain, avx2, avx512 };
Isa isa();  // this machine's, found when it is first asked for

// Runs p, whose membranes are of type F, inputs of X and spikes of S.
template <class F, class X, class S>
void run_types(const Forward& p);
template <class F, class X, class S>
void run_types(const Backward& p);
template <class F>
void finish_type(const Backward& p);

}  // namespace fastlif
