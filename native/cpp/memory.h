// The places and sizes that a program may touch: one arena of values, and the inputs and outputs of a call.
#pragma once

#include <cstdint>
#include <vector>

#include "checks.h"

namespace wenable {

struct Memory {
    std::int64_t arena;
    std::vector<std::int64_t> inputs, outputs;  // values of one example
    std::int32_t threads;
    const Kernels* kernels;

    // Pieces to share out: a few for each thread, since none of them is sure to be as fast as the others.
    std::int64_t pieces() const { return threads == 1 ? 1 : 4 * std::int64_t{threads}; }
};

}  // namespace wenable
