#include "dense.h"

#include <algorithm>

namespace wenable {

DenseStep::DenseStep(const DenseParts& parts, const Memory& memory)
    : parts_(parts), kernels_(*memory.kernels), activation_(checked_activation(parts.activation)) {
    require_size("groups", parts.groups, 1);
    const std::int64_t sources = static_cast<std::int64_t>(parts.sources.size());
    const std::int64_t outputs = static_cast<std::int64_t>(parts.outputs.size());
    require_length("sources", sources % parts.groups, 0);
    require_length("outputs", outputs % parts.groups, 0);
    require_length("scale", static_cast<std::int64_t>(parts.scale.size()), outputs);
    require_length("bias", static_cast<std::int64_t>(parts.bias.size()), outputs);
    source_count_ = sources / parts.groups;
    output_count_ = outputs / parts.groups;
    blocks_ = (output_count_ + dense_block - 1) / dense_block;
    require_length("weights", static_cast<std::int64_t>(parts.weights.size()),
                   parts.groups * blocks_ * source_count_ * dense_block);
    require_places("sources", parts.sources, 0, 1, memory.arena);
    require_places("outputs", parts.outputs, 0, 1, memory.arena);
    gathered_ = false;
    for (std::int64_t i = 1; i < sources; ++i) {
        const auto place = static_cast<std::size_t>(i);
        gathered_ = gathered_ || (i % source_count_ != 0 && parts.sources[place] != parts.sources[place - 1] + 1);
    }
    tasks_ = std::min(parts.groups * blocks_, memory.pieces());
}

void DenseStep::run(std::int64_t task, const Workspace& workspace) const {
    const Share share = share_of(parts_.groups * blocks_, task, tasks_);
    std::int64_t present = -1;
    for (std::int64_t i = share.from; i < share.to; ++i) {
        const std::int64_t group = i / blocks_, first = i % blocks_ * dense_block;
        const std::int64_t* places = parts_.sources.data() + group * source_count_;
        const float* source = source_count_ > 0 ? workspace.arena + places[0] : workspace.arena;
        if (gathered_) {
            source = workspace.scratch;
            for (std::int64_t k = 0; k < source_count_ && group != present; ++k) {
                workspace.scratch[k] = workspace.arena[places[k]];
            }
            present = group;
        }
        const std::int64_t output = group * output_count_ + first;
        kernels_.dense({
            .source = source,
            .target = workspace.arena,
            .outputs = parts_.outputs.data() + output,
            .weights = parts_.weights.data() + i * source_count_ * dense_block,
            .scale = parts_.scale.data() + output,
            .bias = parts_.bias.data() + output,
            .source_count = source_count_,
            .output_count = std::min(dense_block, output_count_ - first),
            .activation = activation_,
        });
    }
}

}  // namespace wenable
