#include "planes.h"

#include <algorithm>

namespace wenable {

PlaneStep::PlaneStep(std::int64_t planes, const Memory& memory)
    : kernels_(*memory.kernels), planes_(planes), tasks_(std::min(planes, memory.pieces())) {}

void PlaneStep::run(std::int64_t task, const Workspace& workspace) const {
    const Share share = share_of(planes_, task, tasks_);
    for (std::int64_t plane = share.from; plane < share.to; ++plane) {
        run_plane(static_cast<std::size_t>(plane), workspace);
    }
}

namespace {

std::int64_t length(Table table) { return static_cast<std::int64_t>(table.size()); }

std::int64_t size_of(std::int64_t number, const std::vector<std::int64_t>& sizes, std::int64_t arena,
                     const char* name) {
    require(number >= -1 && number < static_cast<std::int64_t>(sizes.size()),
            "`", name, "` (=", number, ") is not there");
    return number < 0 ? arena : sizes[static_cast<std::size_t>(number)];
}

// The values that a plane takes for itself, with the margins that are written.
std::int64_t written(const Plane& plane) { return plane.extent() + (plane.clear ? plane.after : 0); }

std::int64_t before(const Plane& plane) { return plane.clear ? plane.before : 0; }

}  // namespace

CopyStep::CopyStep(const CopyParts& parts, const Memory& memory)
    : PlaneStep(length(parts.outputs), memory), parts_(parts) {
    require_plane(parts.source);
    require_plane(parts.target);
    require_length("sources", length(parts.sources), length(parts.outputs));
    require_size("row_step", parts.row_step, 1);
    require_size("column_step", parts.column_step, 1);
    require(std::abs(parts.row_first) <= most_size && std::abs(parts.column_first) <= most_size,
            "a copy begins too far away");
    require(parts.target.rows * parts.row_step <= most_size && parts.target.columns * parts.column_step <= most_size,
            "a copy ends too far away");
    require_places("sources", parts.sources, 0, parts.source.extent(),
                   size_of(parts.input, memory.inputs, memory.arena, "input"));
    require_places("outputs", parts.outputs, before(parts.target), written(parts.target),
                   size_of(parts.output, memory.outputs, memory.arena, "output"));
    if (parts.spills) {
        require(parts.output < 0, "a copy to an output writes past its end");
        require_places("outputs", parts.outputs, before(parts.target), parts.target.extent() + overrun, memory.arena);
    }
}

void CopyStep::run_plane(std::size_t plane, const Workspace& workspace) const {
    const float* source = parts_.input < 0 ? workspace.arena : workspace.inputs[parts_.input];
    float* target = parts_.output < 0 ? workspace.arena : workspace.outputs[parts_.output];
    float* output = target + parts_.outputs[plane];
    kernels_.copy({
        .source = source + parts_.sources[plane],
        .output = output,
        .source_rows = parts_.source.rows,
        .source_columns = parts_.source.columns,
        .source_stride = parts_.source.stride,
        .row_first = parts_.row_first,
        .row_step = parts_.row_step,
        .column_first = parts_.column_first,
        .column_step = parts_.column_step,
        .rows = parts_.target.rows,
        .columns = parts_.target.columns,
        .stride = parts_.target.stride,
        .fill = parts_.fill,
        .spills = parts_.spills,
    });
    kernels_.clear_margins(output, parts_.target, 0, parts_.target.extent());
}

PhasesStep::PhasesStep(const std::vector<CopyParts>& phases, const Memory& memory)
    : PlaneStep(phases.empty() ? 0 : length(phases[0].outputs), memory) {
    for (const CopyParts& each : phases) {
        require_length("outputs", length(each.outputs), length(phases[0].outputs));
        copies_.emplace_back(each, memory);
    }
}

void PhasesStep::run_plane(std::size_t plane, const Workspace& workspace) const {
    for (const CopyStep& each : copies_) {
        each.run_plane(plane, workspace);
    }
}

PoolStep::PoolStep(const PoolParts& parts, const Memory& memory)
    : PlaneStep(length(parts.outputs), memory), parts_(parts) {
    require_plane(parts.source);
    require_plane(parts.target);
    require_length("sources", length(parts.sources), length(parts.outputs));
    for (const std::int64_t size : {parts.kernel_rows, parts.kernel_columns, parts.row_step, parts.column_step,
                                    parts.row_dilation, parts.column_dilation}) {
        require(size >= 1 && size <= 1024, "a window of pooling has the size ", size);
    }
    require(parts.top >= 0 && parts.top <= 1024 * 1024 && parts.left >= 0 && parts.left <= 1024 * 1024,
            "the padding of pooling is too large");
    require_size("padded_rows", parts.padded_rows, 1);
    require_size("padded_columns", parts.padded_columns, 1);
    require(parts.pooling >= 0 && parts.pooling <= 2, "`pooling` is unknown");
    require_size("rows of windows", parts.target.rows * parts.row_step);
    const std::int64_t reach =
        (parts.target.columns - 1) * parts.column_step + (parts.kernel_columns - 1) * parts.column_dilation + 1;
    require_size("columns of windows", reach, parts.left);
    scratch_ = reach + parts.target.columns;
    require_places("sources", parts.sources, 0, parts.source.extent(), memory.arena);
    require_places("outputs", parts.outputs, before(parts.target), written(parts.target), memory.arena);
}

void PoolStep::run_plane(std::size_t plane, const Workspace& workspace) const {
    float* output = workspace.arena + parts_.outputs[plane];
    kernels_.pool({
        .source = workspace.arena + parts_.sources[plane],
        .output = output,
        .source_rows = parts_.source.rows,
        .source_columns = parts_.source.columns,
        .source_stride = parts_.source.stride,
        .rows = parts_.target.rows,
        .columns = parts_.target.columns,
        .stride = parts_.target.stride,
        .kernel_rows = parts_.kernel_rows,
        .kernel_columns = parts_.kernel_columns,
        .row_step = parts_.row_step,
        .column_step = parts_.column_step,
        .row_dilation = parts_.row_dilation,
        .column_dilation = parts_.column_dilation,
        .top = parts_.top,
        .left = parts_.left,
        .padded_rows = parts_.padded_rows,
        .padded_columns = parts_.padded_columns,
        .pooling = static_cast<Pooling>(parts_.pooling),
        .line = workspace.scratch,
    });
    kernels_.clear_margins(output, parts_.target, 0, parts_.target.extent());
}

MeanStep::MeanStep(const MeanParts& parts, const Memory& memory)
    : PlaneStep(length(parts.outputs), memory), parts_(parts) {
    require_plane(parts.source);
    require_length("sources", length(parts.sources), length(parts.outputs));
    require_places("sources", parts.sources, 0, parts.source.extent(), memory.arena);
    require_places("outputs", parts.outputs, 0, 1, memory.arena);
}

void MeanStep::run_plane(std::size_t plane, const Workspace& workspace) const {
    const Plane& shape = parts_.source;
    // Zeros between the rows add nothing: then the plane is one long row.
    const bool flat = shape.clear || shape.stride == shape.columns;
    workspace.arena[parts_.outputs[plane]] =
        kernels_.mean(workspace.arena + parts_.sources[plane], flat ? 1 : shape.rows,
                      flat ? shape.extent() : shape.columns, shape.stride,
                      static_cast<float>(shape.rows * shape.columns));
}

CombineStep::CombineStep(const CombineParts& parts, const Memory& memory)
    : PlaneStep(length(parts.outputs), memory), parts_(parts), activation_(checked_activation(parts.activation)) {
    require_plane(parts.plane);
    require(parts.operand >= 0 && parts.operand < operand_count, "`operand` is unknown");
    operand_ = static_cast<Operand>(parts.operand);
    const std::int64_t planes = length(parts.outputs);
    require_length("left", length(parts.left), planes);
    if (operand_ == Operand::numbers) {
        require_length("scale", static_cast<std::int64_t>(parts.scale.size()), planes);
        require_length("shift", static_cast<std::int64_t>(parts.shift.size()), planes);
    } else {
        require_length("right", length(parts.right), planes);
    }
    const bool single = operand_ == Operand::value_added || operand_ == Operand::value_multiplied;
    require_places("left", parts.left, 0, parts.plane.extent(), memory.arena);
    require_places("right", parts.right, 0, single ? 1 : parts.plane.extent(), memory.arena);
    require_places("outputs", parts.outputs, before(parts.plane), written(parts.plane), memory.arena);
}

void CombineStep::run_plane(std::size_t plane, const Workspace& workspace) const {
    float* arena = workspace.arena;
    float* output = arena + parts_.outputs[plane];
    CombineCall call{
        .left = arena + parts_.left[plane],
        .right = nullptr,
        .output = output,
        .scale = 1.0f,
        .shift = 0.0f,
        .combination = Combination::affine,
        .activation = activation_,
        .count = parts_.plane.extent(),
    };
    switch (operand_) {
        case Operand::numbers:
            call.scale = parts_.scale[plane];
            call.shift = parts_.shift[plane];
            break;
        case Operand::value_added: call.shift = arena[parts_.right[plane]]; break;
        case Operand::value_multiplied: call.scale = arena[parts_.right[plane]]; break;
        case Operand::plane_added:
        case Operand::plane_multiplied:
            call.right = arena + parts_.right[plane];
            call.combination = operand_ == Operand::plane_added ? Combination::add : Combination::multiply;
            break;
    }
    kernels_.combine(call);
    kernels_.clear_margins(output, parts_.plane, 0, parts_.plane.extent());
}

}  // namespace wenable
