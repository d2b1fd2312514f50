// A dense layer, or a convolution of a single position: a matrix times a vector, in groups.
#pragma once

#include <vector>

#include "../memory.h"
#include "../step.h"

namespace wenable {

struct DenseParts {
    Table sources;   // [groups][sources of a group]
    Table outputs;   // [groups][outputs of a group]
    Values weights;  // [groups][blocks][sources of a group][dense_block]
    Values scale, bias;
    std::int64_t groups, activation;
};

class DenseStep : public Step {
public:
    DenseStep(const DenseParts& parts, const Memory& memory);
    std::int64_t tasks() const override { return tasks_; }
    std::int64_t scratch() const override { return gathered_ ? source_count_ : 0; }
    void run(std::int64_t task, const Workspace& workspace) const override;

private:
    DenseParts parts_;
    const Kernels& kernels_;
    Activation activation_;
    std::int64_t source_count_, output_count_, blocks_, tasks_;
    bool gathered_;
};

}  // namespace wenable
