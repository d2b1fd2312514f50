// A depthwise convolution: every channel by itself, over the phases of its input where it has a stride.
#pragma once

#include <vector>

#include "../memory.h"
#include "../step.h"

namespace wenable {

struct DepthwiseParts {
    Table phases;   // [channels][phase_count]
    Table columns;  // [column_count][3]: phase, weights, offset
    Table outputs;  // [channels]
    Values weights, scale, bias;
    std::int64_t phase_count;
    Plane plane;
    std::int64_t activation;
};

// What it computes, apart from where its values lie and how it is shared out.
class Depthwise {
public:
    Depthwise(const DepthwiseParts& parts, const Kernels& kernels, std::int64_t source_size, std::int64_t output_size);
    std::int64_t channels() const { return static_cast<std::int64_t>(parts_.outputs.size()); }
    const Plane& plane() const { return parts_.plane; }
    void run(std::int64_t channel, const float* base, float* target, std::int64_t row_from, std::int64_t row_to) const;

private:
    DepthwiseParts parts_;
    const Kernels& kernels_;
    Activation activation_;
    std::vector<WindowColumn> columns_;
    std::int64_t weights_of_a_channel_ = 0;
};

class DepthwiseStep : public Step {
public:
    DepthwiseStep(const DepthwiseParts& parts, const Memory& memory);
    std::int64_t tasks() const override { return tasks_; }
    void run(std::int64_t task, const Workspace& workspace) const override;

private:
    Depthwise depthwise_;
    std::int64_t tasks_;
};

}  // namespace wenable
