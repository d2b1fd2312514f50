// An inverted residual in one go: an expansion, a depthwise convolution, and maybe the projection.
//
// The hidden tensors are the largest of such a network, and nothing else reads them: a thread computes some
// channels of them at a time, in memory of its own that stays in its cache.
#pragma once

#include <memory>
#include <vector>

#include "convolution.h"
#include "depthwise.h"

namespace wenable {

struct ChainParts {
    ConvolutionParts expansion;  // reads the arena, writes scratch
    DepthwiseParts depthwise;    // reads scratch, writes scratch where there is a projection, else the arena
    ConvolutionParts projection; // reads scratch, writes the arena; without units where there is none
    // [parts][4]: units of the expansion from, to; channels of the depthwise convolution from, to.
    Table parts;
    // [cells][4]: parts from, to; units of the projection from, to.
    Table cells;
    std::int64_t scratch;
};

class ChainStep : public Step {
public:
    ChainStep(const ChainParts& parts, const Memory& memory);
    std::int64_t tasks() const override { return tasks_; }
    std::int64_t scratch() const override { return scratch_; }
    std::int64_t bytes() const override { return expansion_.bytes() + (projection_ ? projection_->bytes() : 0); }
    void run(std::int64_t task, const Workspace& workspace) const override;

private:
    void run_cell(const std::int64_t* cell, const Workspace& workspace) const;

    Table parts_, cells_;
    std::int64_t scratch_;
    Convolution expansion_;
    Depthwise depthwise_;
    std::unique_ptr<Convolution> projection_;
    std::int64_t tasks_, range_ = 0;
};

}  // namespace wenable
