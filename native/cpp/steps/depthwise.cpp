#include "depthwise.h"

#include <algorithm>

namespace wenable {

Depthwise::Depthwise(const DepthwiseParts& parts, const Kernels& kernels, std::int64_t source_size,
                     std::int64_t output_size)
    : parts_(parts), kernels_(kernels), activation_(checked_activation(parts.activation)) {
    require_plane(parts.plane);
    require_size("phase_count", parts.phase_count, 1);
    require_length("phases", static_cast<std::int64_t>(parts.phases.size()), channels() * parts.phase_count);
    require_length("scale", static_cast<std::int64_t>(parts.scale.size()), channels());
    require_length("bias", static_cast<std::int64_t>(parts.bias.size()), channels());
    require_length("columns", static_cast<std::int64_t>(parts.columns.size()) % 3, 0);
    require_places("outputs", parts.outputs, parts.plane.before,
                   parts.plane.extent() + std::max(parts.plane.after, overrun), output_size);
    for (std::size_t i = 0; i < parts.columns.size(); i += 3) {
        const std::int64_t phase = parts.columns[i], count = parts.columns[i + 1], offset = parts.columns[i + 2];
        require(phase >= 0 && phase < parts.phase_count, "a column of a window reads a phase that is not there");
        require(count >= 1 && count <= most_column_weights, "a column of a window has too many weights");
        require(offset >= -most_size && offset <= most_size, "a column of a window lies too far away");
        const std::int64_t reach = offset + (count - 1) * parts.plane.stride + parts.plane.extent() + overrun;
        for (std::int64_t channel = 0; channel < channels(); ++channel) {
            const auto entry = static_cast<std::size_t>(channel * parts.phase_count + phase);
            const std::int64_t place = parts.phases[entry];
            require(place >= 0 && place <= source_size && place + offset >= 0 && place + reach <= source_size,
                    "a window reads outside of ", source_size, " values");
        }
        columns_.push_back({static_cast<std::int32_t>(phase), static_cast<std::int32_t>(count), offset});
        weights_of_a_channel_ += count;
    }
    require_length("weights", static_cast<std::int64_t>(parts.weights.size()), channels() * weights_of_a_channel_);
}

void Depthwise::run(std::int64_t channel, const float* base, float* target, std::int64_t row_from,
                    std::int64_t row_to) const {
    const auto c = static_cast<std::size_t>(channel);
    const Plane& plane = parts_.plane;
    float* output = target + parts_.outputs[c];
    kernels_.depthwise({
        .base = base,
        .output = output,
        .phases = parts_.phases.data() + channel * parts_.phase_count,
        .columns = columns_.data(),
        .column_count = static_cast<std::int32_t>(columns_.size()),
        .weights = parts_.weights.data() + channel * weights_of_a_channel_,
        .scale = parts_.scale[c],
        .bias = parts_.bias[c],
        .activation = activation_,
        .row_from = row_from,
        .row_to = row_to,
        .width = plane.columns,
        .stride = plane.stride,
    });
    const std::int64_t to = row_to == plane.rows ? plane.extent() : row_to * plane.stride;
    kernels_.clear_margins(output, plane, row_from * plane.stride, to);
}

DepthwiseStep::DepthwiseStep(const DepthwiseParts& parts, const Memory& memory)
    : depthwise_(parts, *memory.kernels, memory.arena, memory.arena),
      tasks_(std::min(depthwise_.channels(), memory.pieces())) {}

void DepthwiseStep::run(std::int64_t task, const Workspace& workspace) const {
    const Share share = share_of(depthwise_.channels(), task, tasks_);
    for (std::int64_t channel = share.from; channel < share.to; ++channel) {
        depthwise_.run(channel, workspace.arena, workspace.arena, 0, depthwise_.plane().rows);
    }
}

}  // namespace wenable
