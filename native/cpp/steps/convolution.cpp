#include "convolution.h"

#include <algorithm>

namespace wenable {

namespace {

// A piece takes so many values of all its sources together. Where many units read them, they stay in the first
// cache. Where few do, most of the time goes into reading them first: then a piece goes further along each
// source, for the processor to fetch it ahead, and they stay in the second cache.
constexpr std::int64_t values_of_a_piece = 4096, values_of_a_long_piece = 16384;
constexpr std::int64_t few_units = 16;
// Long pieces are as many as that for each task at least, so that threads end together.
constexpr std::int64_t pieces_of_a_task = 4;

// Positions of a piece, before they are rounded to whole tiles.
std::int64_t piece_length(std::int64_t units, std::int64_t sources, std::int64_t most) {
    const std::int64_t length = values_of_a_piece / sources;
    return units > few_units ? length : std::max(length, std::min(values_of_a_long_piece / sources, most));
}

}  // namespace

Convolution::Convolution(const ConvolutionParts& parts, const Kernels& kernels, std::int64_t source_size,
                         std::int64_t output_size)
    : parts_(parts), kernels_(kernels), activation_(checked_activation(parts.activation)) {
    require(!parts.planes.empty(), "`planes` is empty");
    for (const Plane& plane : parts.planes) {
        require_plane(plane);
    }
    require_length("units", static_cast<std::int64_t>(parts.units.size()) % unit_entries, 0);
    const std::int64_t sources = static_cast<std::int64_t>(parts.sources.size());
    const std::int64_t outputs = static_cast<std::int64_t>(parts.outputs.size());
    require_length("scale", static_cast<std::int64_t>(parts.scale.size()), outputs);
    require_length("bias", static_cast<std::int64_t>(parts.bias.size()), outputs);
    if (!parts.residuals.empty()) {
        require_length("residuals", static_cast<std::int64_t>(parts.residuals.size()), outputs);
    }
    if (!parts.input_scales.empty()) {
        require_length("input_scales", static_cast<std::int64_t>(parts.input_scales.size()), sources);
    }
    for (std::size_t i = 0; i < parts.units.size(); i += unit_entries) {
        const Table e = parts.units.subspan(i, unit_entries);
        const Unit unit{e[0], e[1], e[2], e[3], e[4], e[5]};
        for (const std::int64_t entry : e) {
            require_size("an entry of units", entry);
        }
        require_size("the outputs of a unit", unit.output_count, 1);
        require(unit.output_count <= most_outputs, "a unit has more outputs than a kernel makes");
        require(unit.first_output + unit.output_count <= outputs, "a unit makes an output that is not there");
        require(unit.first_source + unit.source_count <= sources, "a unit reads a source that is not there");
        const std::int64_t weights = unit.source_count * unit.output_count;
        require(unit.first_weight + weights <= static_cast<std::int64_t>(parts.weights.size()),
                "a unit reads a weight that is not there");
        require(unit.plane < static_cast<std::int64_t>(parts.planes.size()), "a unit has a plane that is not there");
        const Plane& plane = this->plane(unit.plane);
        const std::int64_t reach = plane.extent() + overrun;
        require_places("sources", parts.sources.subspan(static_cast<std::size_t>(unit.first_source),
                                                        static_cast<std::size_t>(unit.source_count)),
                       0, reach, source_size);
        const auto first = static_cast<std::size_t>(unit.first_output);
        const auto count = static_cast<std::size_t>(unit.output_count);
        require_places("outputs", parts.outputs.subspan(first, count), plane.before,
                       plane.extent() + std::max(plane.after, overrun), output_size);
        if (!parts.residuals.empty()) {
            require_places("residuals", parts.residuals.subspan(first, count), 0, reach, output_size);
        }
        units_.push_back(unit);
        if (!parts.input_scales.empty()) {
            scratch_ = std::max(scratch_, weights);
        }
    }
}

void Convolution::run(const Unit& unit, const float* base, float* target, const float* values, float* scratch,
                      std::int64_t from, std::int64_t to, bool exact) const {
    const float* weights = parts_.weights.data() + unit.first_weight;
    if (!parts_.input_scales.empty()) {
        const std::int64_t* scales = parts_.input_scales.data() + unit.first_source;
        for (std::int64_t k = 0; k < unit.source_count; ++k) {
            const float scale = values[scales[k]];
            for (std::int64_t o = 0; o < unit.output_count; ++o) {
                scratch[k * unit.output_count + o] = weights[k * unit.output_count + o] * scale;
            }
        }
        weights = scratch;
    }
    const std::int64_t* residuals =
        parts_.residuals.empty() ? nullptr : parts_.residuals.data() + unit.first_output;
    kernels_.convolve({
        .base = base,
        .target = target,
        .sources = parts_.sources.data() + unit.first_source,
        .source_count = unit.source_count,
        .weights = weights,
        .scale = parts_.scale.data() + unit.first_output,
        .bias = parts_.bias.data() + unit.first_output,
        .outputs = parts_.outputs.data() + unit.first_output,
        .output_count = static_cast<std::int32_t>(unit.output_count),
        .residual_base = values,
        .residuals = residuals,
        .activation = activation_,
        .from = from,
        .to = to,
        .exact = exact,
    });
    const Plane& shape = plane(unit.plane);
    if (shape.clear) {
        for (std::int64_t o = 0; o < unit.output_count; ++o) {
            const std::int64_t place = parts_.outputs[static_cast<std::size_t>(unit.first_output + o)];
            kernels_.clear_margins(target + place, shape, from, to);
        }
    }
}

ConvolutionStep::ConvolutionStep(const ConvolutionParts& parts, const Memory& memory)
    : convolution_(parts, *memory.kernels, memory.arena, memory.arena) {
    require_places("input_scales", parts.input_scales, 0, 1, memory.arena);
    const std::vector<Unit>& units = convolution_.units();
    const std::int64_t count = static_cast<std::int64_t>(units.size());
    std::vector<Piece> wholes;
    std::int64_t positions = 0;
    for (std::int64_t first = 0; first < count;) {
        const Unit& unit = units[static_cast<std::size_t>(first)];
        std::int64_t last = first + 1;
        while (last < count && units[static_cast<std::size_t>(last)].first_source == unit.first_source &&
               units[static_cast<std::size_t>(last)].plane == unit.plane) {
            ++last;
        }
        wholes.push_back({first, last, 0, convolution_.plane(unit.plane).extent()});
        positions += wholes.back().to;
        first = last;
    }
    const std::int64_t tile = memory.kernels->tile, most = positions / (pieces_of_a_task * memory.pieces());
    for (const Piece& whole : wholes) {
        const Unit& unit = units[static_cast<std::size_t>(whole.first_unit)];
        const std::int64_t sources = std::max<std::int64_t>(unit.source_count, 1);
        const std::int64_t length = piece_length(whole.last_unit - whole.first_unit, sources, most);
        const std::int64_t step = std::max(length / tile, std::int64_t{1}) * tile;
        for (std::int64_t from = 0; from < whole.to; from += step) {
            pieces_.push_back({whole.first_unit, whole.last_unit, from, std::min(from + step, whole.to)});
        }
    }
    share_units(memory.pieces());
    tasks_ = std::min(static_cast<std::int64_t>(pieces_.size()), memory.pieces());
}

void ConvolutionStep::share_units(std::int64_t wanted) {
    const std::int64_t count = static_cast<std::int64_t>(pieces_.size());
    const std::int64_t parts = (wanted + count - 1) / std::max<std::int64_t>(count, 1);
    if (parts < 2) {
        return;
    }
    std::vector<Piece> shared;
    for (const Piece& piece : pieces_) {
        const std::int64_t units = piece.last_unit - piece.first_unit;
        for (std::int64_t part = 0; part < std::min(parts, units); ++part) {
            const Share share = share_of(units, part, std::min(parts, units));
            shared.push_back({piece.first_unit + share.from, piece.first_unit + share.to, piece.from, piece.to});
        }
    }
    pieces_ = std::move(shared);
}

void ConvolutionStep::run(std::int64_t task, const Workspace& workspace) const {
    const Share share = share_of(static_cast<std::int64_t>(pieces_.size()), task, tasks_);
    for (std::int64_t i = share.from; i < share.to; ++i) {
        const Piece& piece = pieces_[static_cast<std::size_t>(i)];
        for (std::int64_t unit = piece.first_unit; unit < piece.last_unit; ++unit) {
            convolution_.run(convolution_.units()[static_cast<std::size_t>(unit)], workspace.arena, workspace.arena,
                             workspace.arena, workspace.scratch, piece.from, piece.to, false);
        }
    }
}

}  // namespace wenable
