// Depthwise convolutions: several rows at once, so that a row that was loaded serves all windows over it.
//
// The window is taken apart into columns. For each, its weights stay in registers while the rows go by.
// A stride of two reads planes that were taken apart before into even and odd rows and columns (phases);
// then a window that moves by two is one that moves by one over several planes.
#pragma once

#include "activations.h"
#include "depthwise_three.h"

namespace wenable::WENABLE_VARIANT {

template <int rows, int count>
WENABLE_INLINE void add_column(Vector (&sums)[rows], const float* source, std::int64_t stride,
                               const float* weights) {
    Vector weight[count];
#pragma GCC unroll 8
    for (int k = 0; k < count; ++k) {
        weight[k] = all(weights[k]);
    }
#pragma GCC unroll 16
    for (int line = 0; line < rows + count - 1; ++line) {
        const Vector values = load(source + line * stride);
#pragma GCC unroll 8
        for (int k = 0; k < count; ++k) {
            if (line - k >= 0 && line - k < rows) {
                sums[line - k] += weight[k] * values;
            }
        }
    }
}

template <int rows>
WENABLE_INLINE void depthwise_tile(const DepthwiseCall& call, std::int64_t position) {
    Vector sums[rows] = {};
    const float* weights = call.weights;
    for (std::int32_t c = 0; c < call.column_count; ++c) {
        const WindowColumn& column = call.columns[c];
        const float* source = call.base + call.phases[column.phase] + column.offset + position;
        static_assert(most_column_weights == 5);
        switch (column.count) {
            case 1: add_column<rows, 1>(sums, source, call.stride, weights); break;
            case 2: add_column<rows, 2>(sums, source, call.stride, weights); break;
            case 3: add_column<rows, 3>(sums, source, call.stride, weights); break;
            case 4: add_column<rows, 4>(sums, source, call.stride, weights); break;
            default: add_column<rows, 5>(sums, source, call.stride, weights); break;
        }
        weights += column.count;
    }
    const Vector scale = all(call.scale);
    const Vector bias = all(call.bias);
    const Bounds bounds(call.activation);
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) {
        store(call.output + position + row * call.stride, bounds.of(sums[row] * scale + bias));
    }
}

// From right to left and from top to bottom: the last vector of a row runs over its end, into values that
// are written later.
template <int rows>
WENABLE_INLINE std::int64_t depthwise_rows(const DepthwiseCall& call, std::int64_t row) {
    for (; row + rows <= call.row_to; row += rows) {
        std::int64_t column = (call.width - 1) / lanes * lanes;
        for (; column >= 0; column -= lanes) {
            depthwise_tile<rows>(call, row * call.stride + column);
        }
    }
    return row;
}

inline void depthwise(const DepthwiseCall& call) {
    if (!depthwise_three(call)) {
        std::int64_t row = call.row_from;
        row = depthwise_rows<7>(call, row);
        row = depthwise_rows<4>(call, row);
        row = depthwise_rows<2>(call, row);
        depthwise_rows<1>(call, row);
    }
    if (is_smooth(call.activation)) {
        const std::int64_t first = call.row_from * call.stride;
        const std::int64_t last = (call.row_to - 1) * call.stride + call.width;
        apply_smooth(call.activation, call.output + first, last - first);
    }
}

}  // namespace wenable::WENABLE_VARIANT
