// Convolutions, of any number of groups: a table of sources, a few outputs, vectors over positions.
//
// A window that moves by one is a longer table: each of its places reads the same plane moved by some rows
// and columns, and margins of zeros make that right at the edges. So one loop serves every kernel size.
#pragma once

#include "activations.h"

namespace wenable::WENABLE_VARIANT {

// How many vectors of positions are computed at once: what the registers hold beside the accumulators.
constexpr int vectors_for(int outputs) {
    const int accumulators = registers == 32 ? 24 : 12;
    const int fitting = accumulators / outputs;
    return fitting > 6 ? 6 : fitting;
}

template <int outputs, int vectors>
WENABLE_INLINE void convolve_tile(const ConvolveCall& call, std::int64_t position) {
    Vector sums[outputs][vectors] = {};
    const float* base = call.base + position;
    const float* weights = call.weights;
    for (std::int64_t k = 0; k < call.source_count; ++k, weights += outputs) {
        const float* source = base + call.sources[k];
        Vector values[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            values[v] = load(source + v * lanes);
        }
#pragma GCC unroll 8
        for (int o = 0; o < outputs; ++o) {
            const Vector weight = all(weights[o]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) {
                sums[o][v] += weight * values[v];
            }
        }
    }
    // Copied: a vector that is stored may lie anywhere, as far as the compiler knows.
    const std::int64_t* places = call.outputs;
    const std::int64_t* residuals = call.residuals;
    const float* residual_base = call.residual_base + position;
    const float* scales = call.scale;
    const float* biases = call.bias;
    float* target = call.target + position;
    const Bounds bounds(call.activation);
#pragma GCC unroll 8
    for (int o = 0; o < outputs; ++o) {
        const Vector scale = all(scales[o]);
        const Vector bias = all(biases[o]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            sums[o][v] = sums[o][v] * scale + bias;
        }
    }
    if (residuals != nullptr) {
#pragma GCC unroll 8
        for (int o = 0; o < outputs; ++o) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) {
                sums[o][v] += load(residual_base + residuals[o] + v * lanes);
            }
        }
    }
#pragma GCC unroll 8
    for (int o = 0; o < outputs; ++o) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            store(target + places[o] + v * lanes, bounds.of(sums[o][v]));
        }
    }
}

// The last values of a range, fewer than a vector: computed beside and copied.
template <int outputs>
void convolve_end(const ConvolveCall& call, std::int64_t position) {
    float values[outputs * lanes];
    std::int64_t places[outputs];
    for (int o = 0; o < outputs; ++o) {
        places[o] = o * lanes - position;
    }
    ConvolveCall beside = call;
    beside.target = values;
    beside.outputs = places;
    convolve_tile<outputs, 1>(beside, position);
    for (int o = 0; o < outputs; ++o) {
        for (std::int64_t i = position; i < call.to; ++i) {
            call.target[call.outputs[o] + i] = values[o * lanes + (i - position)];
        }
    }
}

// The rest of a range, in as few vectors as hold it.
template <int outputs, int vectors>
WENABLE_INLINE void convolve_rest(const ConvolveCall& call, std::int64_t position, std::int64_t needed) {
    if constexpr (vectors > 0) {
        if (needed == vectors) {
            convolve_tile<outputs, vectors>(call, position);
        } else {
            convolve_rest<outputs, vectors - 1>(call, position, needed);
        }
    }
}

template <int outputs>
void convolve_outputs(const ConvolveCall& call) {
    constexpr int vectors = vectors_for(outputs);
    std::int64_t position = call.from;
    for (; position + vectors * lanes <= call.to; position += vectors * lanes) {
        convolve_tile<outputs, vectors>(call, position);
    }
    if (call.exact) {
        const std::int64_t whole = (call.to - position) / lanes;
        convolve_rest<outputs, vectors>(call, position, whole);
        if (position + whole * lanes < call.to) {
            convolve_end<outputs>(call, position + whole * lanes);
        }
    } else {
        convolve_rest<outputs, vectors>(call, position, (call.to - position + lanes - 1) / lanes);
    }
    if (is_smooth(call.activation)) {
        for (int o = 0; o < outputs; ++o) {
            apply_smooth(call.activation, call.target + call.outputs[o] + call.from, call.to - call.from);
        }
    }
}

inline void convolve(const ConvolveCall& call) {
    static_assert(most_outputs == 6);
    switch (call.output_count) {
        case 1: return convolve_outputs<1>(call);
        case 2: return convolve_outputs<2>(call);
        case 3: return convolve_outputs<3>(call);
        case 4: return convolve_outputs<4>(call);
        case 5: return convolve_outputs<5>(call);
        default: return convolve_outputs<6>(call);
    }
}

}  // namespace wenable::WENABLE_VARIANT
