// Steps that take one plane at a time: copies, pooling, means, and what is computed value by value.
#pragma once

#include <vector>

#include "../memory.h"
#include "../step.h"

namespace wenable {

// Planes one by one, shared out in runs.
class PlaneStep : public Step {
public:
    std::int64_t tasks() const override { return tasks_; }
    void run(std::int64_t task, const Workspace& workspace) const override;

protected:
    PlaneStep(std::int64_t planes, const Memory& memory);
    virtual void run_plane(std::size_t plane, const Workspace& workspace) const = 0;

    const Kernels& kernels_;

private:
    std::int64_t planes_, tasks_;
};

struct CopyParts {
    Table sources, outputs;
    // The input or output of the network that is read or written, or -1 for the arena.
    std::int64_t input, output;
    Plane source, target;
    std::int64_t row_first, row_step, column_first, column_step;
    float fill;
    // Whether a vector may be written past the end of a plane.
    bool spills = false;
};

class CopyStep : public PlaneStep {
public:
    CopyStep(const CopyParts& parts, const Memory& memory);
    void run_plane(std::size_t plane, const Workspace& workspace) const override;

private:
    CopyParts parts_;
};

// Several copies of the same planes, as the phases of a stride: all of a plane while it is in the first cache.
class PhasesStep : public PlaneStep {
public:
    PhasesStep(const std::vector<CopyParts>& phases, const Memory& memory);

private:
    void run_plane(std::size_t plane, const Workspace& workspace) const override;
    std::vector<CopyStep> copies_;
};

struct PoolParts {
    Table sources, outputs;
    Plane source, target;
    std::int64_t kernel_rows, kernel_columns, row_step, column_step, row_dilation, column_dilation;
    std::int64_t top, left, padded_rows, padded_columns, pooling;
};

class PoolStep : public PlaneStep {
public:
    PoolStep(const PoolParts& parts, const Memory& memory);
    std::int64_t scratch() const override { return scratch_; }

private:
    void run_plane(std::size_t plane, const Workspace& workspace) const override;
    PoolParts parts_;
    std::int64_t scratch_;
};

struct MeanParts {
    Table sources, outputs;
    Plane source;
};

class MeanStep : public PlaneStep {
public:
    MeanStep(const MeanParts& parts, const Memory& memory);

private:
    void run_plane(std::size_t plane, const Workspace& workspace) const override;
    MeanParts parts_;
};

// How the second operand of a combination is given.
enum class Operand : std::int32_t { numbers, plane_added, plane_multiplied, value_added, value_multiplied };
constexpr std::int64_t operand_count = 5;

struct CombineParts {
    Table left, right, outputs;
    Values scale, shift;  // of each plane, for `numbers`
    std::int64_t operand, activation;
    Plane plane;
};

class CombineStep : public PlaneStep {
public:
    CombineStep(const CombineParts& parts, const Memory& memory);

private:
    void run_plane(std::size_t plane, const Workspace& workspace) const override;
    CombineParts parts_;
    Operand operand_;
    Activation activation_;
};

}  // namespace wenable
