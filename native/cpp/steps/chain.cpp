#include "chain.h"

#include <algorithm>

namespace wenable {

namespace {

constexpr std::size_t entries = 4;
// Sources of a range stay in the first cache: they were just written, and many units may read them.
constexpr std::int64_t values_of_a_range = 4096;

std::int64_t count(Table table) { return static_cast<std::int64_t>(table.size()); }

void require_ranges(const char* name, Table table, std::int64_t first_count, std::int64_t second_count) {
    require_length(name, count(table) % static_cast<std::int64_t>(entries), 0);
    for (std::size_t i = 0; i < table.size(); i += entries) {
        const bool ordered = 0 <= table[i] && table[i] <= table[i + 1] && table[i + 1] <= first_count &&
                             0 <= table[i + 2] && table[i + 2] <= table[i + 3] && table[i + 3] <= second_count;
        require(ordered, "`", name, "` has a range that is not there");
    }
}

}  // namespace

ChainStep::ChainStep(const ChainParts& parts, const Memory& memory)
    : parts_(parts.parts),
      cells_(parts.cells),
      scratch_(parts.scratch),
      expansion_(parts.expansion, *memory.kernels, memory.arena, parts.scratch),
      depthwise_(parts.depthwise, *memory.kernels, parts.scratch,
                 parts.projection.units.empty() ? memory.arena : parts.scratch) {
    require_size("scratch", parts.scratch, 1);
    require(parts.expansion.input_scales.empty() && parts.expansion.residuals.empty() &&
                parts.projection.input_scales.empty(),
            "a chain scales no inputs, and adds at its end only");
    std::int64_t projection_units = 0;
    if (!parts.projection.units.empty()) {
        projection_ = std::make_unique<Convolution>(parts.projection, *memory.kernels, parts.scratch, memory.arena);
        projection_units = static_cast<std::int64_t>(projection_->units().size());
        std::int64_t most_sources = 1;
        for (const Unit& unit : projection_->units()) {
            most_sources = std::max(most_sources, unit.source_count);
        }
        const std::int64_t tile = memory.kernels->tile;
        range_ = std::max(values_of_a_range / most_sources / tile, std::int64_t{1}) * tile;
    }
    require_ranges("parts", parts_, static_cast<std::int64_t>(expansion_.units().size()), depthwise_.channels());
    require_ranges("cells", cells_, count(parts_) / static_cast<std::int64_t>(entries), projection_units);
    tasks_ = std::min(count(cells_) / static_cast<std::int64_t>(entries), memory.pieces());
}

void ChainStep::run(std::int64_t task, const Workspace& workspace) const {
    const Share share = share_of(count(cells_) / static_cast<std::int64_t>(entries), task, tasks_);
    for (std::int64_t cell = share.from; cell < share.to; ++cell) {
        run_cell(cells_.data() + cell * static_cast<std::int64_t>(entries), workspace);
    }
}

void ChainStep::run_cell(const std::int64_t* cell, const Workspace& workspace) const {
    float* target = projection_ ? workspace.scratch : workspace.arena;
    for (std::int64_t number = cell[0]; number < cell[1]; ++number) {
        const std::int64_t* part = parts_.data() + number * static_cast<std::int64_t>(entries);
        for (std::int64_t i = part[0]; i < part[1]; ++i) {
            const Unit& unit = expansion_.units()[static_cast<std::size_t>(i)];
            expansion_.run(unit, workspace.arena, workspace.scratch, workspace.arena, nullptr, 0,
                           expansion_.plane(unit.plane).extent(), false);
        }
        for (std::int64_t channel = part[2]; channel < part[3]; ++channel) {
            depthwise_.run(channel, workspace.scratch, target, 0, depthwise_.plane().rows);
        }
    }
    if (!projection_) {
        return;
    }
    for (std::int64_t i = cell[2]; i < cell[3];) {
        const Unit& first = projection_->units()[static_cast<std::size_t>(i)];
        std::int64_t last = i;
        while (last < cell[3] && projection_->units()[static_cast<std::size_t>(last)].first_source == first.first_source) {
            ++last;
        }
        const std::int64_t extent = projection_->plane(first.plane).extent();
        for (std::int64_t from = 0; from < extent; from += range_) {
            for (std::int64_t unit = i; unit < last; ++unit) {
                projection_->run(projection_->units()[static_cast<std::size_t>(unit)], workspace.scratch,
                                 workspace.arena, workspace.arena, nullptr, from, std::min(from + range_, extent),
                                 false);
            }
        }
        i = last;
    }
}

}  // namespace wenable
