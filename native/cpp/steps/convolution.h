// A convolution as units: some outputs of a group that read the same sources.
#pragma once

#include <vector>

#include "../memory.h"
#include "../step.h"

namespace wenable {

// Entries of the tables and weights that one call of the kernel takes.
struct Unit {
    std::int64_t first_output, output_count, first_source, source_count, first_weight, plane;
};
constexpr std::int64_t unit_entries = 6;

struct ConvolutionParts {
    Table sources, units, outputs, residuals, input_scales;
    Values weights, scale, bias;
    std::vector<Plane> planes;
    std::int64_t activation;
};

// What a convolution computes, apart from where its values lie and how it is shared out.
class Convolution {
public:
    // `source_size`, `output_size`: the values that its tables may reach.
    Convolution(const ConvolutionParts& parts, const Kernels& kernels, std::int64_t source_size,
                std::int64_t output_size);

    const std::vector<Unit>& units() const { return units_; }
    const Plane& plane(std::int64_t number) const { return parts_.planes[static_cast<std::size_t>(number)]; }
    std::int64_t scratch() const { return scratch_; }
    std::int64_t bytes() const { return static_cast<std::int64_t>(units_.size() * sizeof(Unit)); }

    // Computes positions from..to of a unit; `values` is the arena, where residuals and input scales lie.
    void run(const Unit& unit, const float* base, float* target, const float* values, float* scratch,
             std::int64_t from, std::int64_t to, bool exact) const;

private:
    ConvolutionParts parts_;
    const Kernels& kernels_;
    Activation activation_;
    std::vector<Unit> units_;
    std::int64_t scratch_ = 0;
};

class ConvolutionStep : public Step {
public:
    ConvolutionStep(const ConvolutionParts& parts, const Memory& memory);
    std::int64_t tasks() const override { return tasks_; }
    std::int64_t scratch() const override { return convolution_.scratch(); }
    std::int64_t bytes() const override { return convolution_.bytes(); }
    void run(std::int64_t task, const Workspace& workspace) const override;

private:
    // Units one after the other that read the same sources, and a range of positions.
    struct Piece {
        std::int64_t first_unit, last_unit, from, to;
    };
    // Where there are too few pieces for all threads, each has a part of the units.
    void share_units(std::int64_t wanted);

    Convolution convolution_;
    std::vector<Piece> pieces_;
    std::int64_t tasks_;
};

}  // namespace wenable
