// Which instruction sets the kernels were compiled for, and which of them this processor has.
#pragma once

#include <string>
#include <vector>

#include "kernels/calls.h"

namespace wenable {

// The names of all variants that run here, the best first.
std::vector<std::string> usable_variants();

// The kernels of a variant by name, the best one for an empty name; throws where it does not run here.
const Kernels& kernels_named(const std::string& name);

}  // namespace wenable
