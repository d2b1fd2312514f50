// The kernels for one instruction set: CMakeLists.txt compiles this file once for each.
#include "combine.h"
#include "convolve.h"
#include "copy.h"
#include "dense.h"
#include "depthwise.h"
#include "pool.h"

#define WENABLE_TEXT_OF(name) #name
#define WENABLE_TEXT(name) WENABLE_TEXT_OF(name)

namespace wenable::WENABLE_VARIANT {

extern const Kernels kernels;
const Kernels kernels = {
    WENABLE_TEXT(WENABLE_VARIANT), lanes, vectors_for(4) * lanes, convolve, depthwise, copy, pool, combine, dense,
    mean, clear_margins,
};

}  // namespace wenable::WENABLE_VARIANT
