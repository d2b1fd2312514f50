// A step of a program: work in pieces that do not depend on each other, so that threads share them out.
#pragma once

#include <cstdint>

#include "kernels/calls.h"

namespace wenable {

// The memory of one call.
struct Workspace {
    float* arena;
    const float* const* inputs;
    float* const* outputs;
    // Of the thread that runs the piece: `Step::scratch` values.
    float* scratch;
};

class Step {
public:
    virtual ~Step() = default;
    virtual std::int64_t tasks() const = 0;
    virtual void run(std::int64_t task, const Workspace& workspace) const = 0;
    // Values that a thread needs for itself while it runs a piece.
    virtual std::int64_t scratch() const { return 0; }
    // Bytes that the step holds beside the arrays that it was given.
    virtual std::int64_t bytes() const { return 0; }
};

// The piece `task` of `tasks` of the whole numbers below `count`.
struct Share {
    std::int64_t from, to;
};

inline Share share_of(std::int64_t count, std::int64_t task, std::int64_t tasks) {
    return {count * task / tasks, count * (task + 1) / tasks};
}

}  // namespace wenable
