// Depthwise windows of 3 x 3, the most common ones: all weights stay in registers while the rows go by.
//
// A row of the input is loaded once for each column of the window, and added to every row of the output that
// reads it. So only the sums of the rows that are not yet complete have to be kept.
#pragma once

#include "activations.h"

namespace wenable::WENABLE_VARIANT {

// Its columns downwards, with the scale in the weights.
struct ThreeByThree {
    Vector weights[3][3];  // [row][column]
    Vector bias;
    Bounds bounds;

    WENABLE_INLINE explicit ThreeByThree(const DepthwiseCall& call, const std::int32_t (&order)[3])
        : bias(all(call.bias)), bounds(call.activation) {
        for (int column = 0; column < 3; ++column) {
            for (int row = 0; row < 3; ++row) {
                weights[row][column] = all(call.weights[3 * column + order[row]] * call.scale);
            }
        }
    }

    // Adds what a row of the input, at `position` of each column's plane, brings as `row` of the window.
    template <int row>
    WENABLE_INLINE Vector added(Vector sum, const Vector (&values)[3]) const {
#pragma GCC unroll 3
        for (int column = 0; column < 3; ++column) {
            sum += weights[row][column] * values[column];
        }
        return sum;
    }
};

WENABLE_INLINE void load_three(Vector (&values)[3], const float* const (&columns)[3], std::int64_t position) {
#pragma GCC unroll 3
    for (int column = 0; column < 3; ++column) {
        values[column] = load(columns[column] + position);
    }
}

WENABLE_INLINE const float* column_of(const DepthwiseCall& call, int number) {
    return call.base + call.phases[call.columns[number].phase] + call.columns[number].offset;
}

// A window that moves by one: three rows of one plane.
WENABLE_INLINE void three_plain(const DepthwiseCall& call, const ThreeByThree& window, std::int64_t position,
                                std::int64_t rows) {
    const float* const columns[3] = {column_of(call, 0), column_of(call, 1), column_of(call, 2)};
    Vector values[3];
    load_three(values, columns, position);
    Vector first = window.added<0>(window.bias, values);
    load_three(values, columns, position + call.stride);
    first = window.added<1>(first, values);
    Vector second = window.added<0>(window.bias, values);
    for (std::int64_t row = 0; row < rows; ++row, position += call.stride) {
        load_three(values, columns, position + 2 * call.stride);
        store(call.output + position, window.bounds.of(window.added<2>(first, values)));
        first = window.added<1>(second, values);
        second = window.added<0>(window.bias, values);
    }
}

// A window that moves by two rows, its first and last in one phase and the middle one in another.
WENABLE_INLINE void three_in_phases(const DepthwiseCall& call, const ThreeByThree& window, std::int64_t position,
                                    std::int64_t rows) {
    const float* const middles[3] = {column_of(call, 0), column_of(call, 2), column_of(call, 4)};
    const float* const outers[3] = {column_of(call, 1), column_of(call, 3), column_of(call, 5)};
    Vector values[3];
    load_three(values, outers, position);
    Vector sum = window.added<0>(window.bias, values);
    for (std::int64_t row = 0; row < rows; ++row, position += call.stride) {
        load_three(values, middles, position);
        sum = window.added<1>(sum, values);
        load_three(values, outers, position + call.stride);
        store(call.output + position, window.bounds.of(window.added<2>(sum, values)));
        sum = window.added<0>(window.bias, values);
    }
}

// From right to left: the last vector of a row runs over its end, into values that are written later.
template <bool plain>
void three_columns(const DepthwiseCall& call) {
    // Of a window in phases the weight of the middle row comes first.
    const ThreeByThree window = plain ? ThreeByThree(call, {0, 1, 2}) : ThreeByThree(call, {1, 0, 2});
    const std::int64_t first = call.row_from * call.stride, rows = call.row_to - call.row_from;
    for (std::int64_t column = (call.width - 1) / lanes * lanes; column >= 0; column -= lanes) {
        if constexpr (plain) {
            three_plain(call, window, first + column, rows);
        } else {
            three_in_phases(call, window, first + column, rows);
        }
    }
}

// Rows from which it is worth while to fill registers with all weights.
constexpr std::int64_t fewest_rows = 12;

// Computes a window of 3 x 3 over enough rows; says no to any other.
inline bool depthwise_three(const DepthwiseCall& call) {
    const WindowColumn* columns = call.columns;
    bool plain = call.column_count == 3, in_phases = call.column_count == 6;
    for (std::int32_t c = 0; c < call.column_count; ++c) {
        plain = plain && columns[c].count == 3;
        in_phases = in_phases && columns[c].count == (c % 2 == 0 ? 1 : 2);
    }
    if (call.row_to - call.row_from < fewest_rows || (!plain && !in_phases)) {
        return false;
    }
    if (plain) {
        three_columns<true>(call);
    } else {
        three_columns<false>(call);
    }
    return true;
}

}  // namespace wenable::WENABLE_VARIANT
