// Pooling: each row of windows is reduced downwards first, in vectors, and then sideways.
#pragma once

#include "copy.h"

namespace wenable::WENABLE_VARIANT {

template <bool maximum>
WENABLE_INLINE float pooled(float a, float b) {
    return maximum ? (a > b ? a : b) : a + b;
}

// How many of `count` places from `first`, `dilation` apart, lie at 0..size.
inline std::int64_t places_inside(std::int64_t first, std::int64_t count, std::int64_t dilation,
                                  std::int64_t size) {
    const Range found = inside(count, first, dilation, size);
    return found.to - found.from;
}

template <bool maximum>
void pool_row(const PoolCall& call, std::int64_t row) {
    const float neutral = maximum ? -__builtin_inff() : 0.0f;
    const std::int64_t reach = (call.columns - 1) * call.column_step +
                               (call.kernel_columns - 1) * call.column_dilation + 1;
    // The columns of the input that any window reads, with the padding on both sides.
    float* __restrict__ line = call.line;
    fill(line, reach, neutral);
    const std::int64_t first_row = row * call.row_step - call.top;
    const Range rows = inside(call.kernel_rows, first_row, call.row_dilation, call.source_rows);
    const std::int64_t room = reach - call.left;
    const std::int64_t width = call.source_columns < room ? call.source_columns : room;
    for (std::int64_t k = rows.from; k < rows.to; ++k) {
        const float* __restrict__ source =
            call.source + (first_row + k * call.row_dilation) * call.source_stride;
        for (std::int64_t i = 0; i < width; ++i) {
            line[call.left + i] = pooled<maximum>(line[call.left + i], source[i]);
        }
    }
    float* output = call.output + row * call.stride;
    float* __restrict__ reduced = line + reach;
    fill(reduced, call.columns, neutral);
    for (std::int64_t k = 0; k < call.kernel_columns; ++k) {
        const float* __restrict__ values = line + k * call.column_dilation;
        if (call.column_step == 1) {
            for (std::int64_t i = 0; i < call.columns; ++i) {
                reduced[i] = pooled<maximum>(reduced[i], values[i]);
            }
        } else if (call.column_step == 2) {
            for (std::int64_t i = 0; i < call.columns; ++i) {
                reduced[i] = pooled<maximum>(reduced[i], values[2 * i]);
            }
        } else {
            for (std::int64_t i = 0; i < call.columns; ++i) {
                reduced[i] = pooled<maximum>(reduced[i], values[i * call.column_step]);
            }
        }
    }
    if (maximum) {
        for (std::int64_t i = 0; i < call.columns; ++i) {
            output[i] = reduced[i];
        }
        return;
    }
    const bool padded = call.pooling == Pooling::average_with_padding;
    const std::int64_t rows_read =
        padded ? places_inside(first_row + call.top, call.kernel_rows, call.row_dilation, call.padded_rows)
               : rows.to - rows.from;
    for (std::int64_t i = 0; i < call.columns; ++i) {
        const std::int64_t first = i * call.column_step;
        const std::int64_t columns_read =
            padded
                ? places_inside(first, call.kernel_columns, call.column_dilation, call.padded_columns)
                : places_inside(first - call.left, call.kernel_columns, call.column_dilation,
                                call.source_columns);
        output[i] = reduced[i] / static_cast<float>(rows_read * columns_read);
    }
}

inline void pool(const PoolCall& call) {
    for (std::int64_t row = 0; row < call.rows; ++row) {
        if (call.pooling == Pooling::maximum) {
            pool_row<true>(call, row);
        } else {
            pool_row<false>(call, row);
        }
    }
}

// The sum of all values, divided by `count`.
inline float mean(const float* source, std::int64_t rows, std::int64_t columns, std::int64_t stride, float count) {
    Vector sums[4] = {};
    float rest = 0;
    for (std::int64_t row = 0; row < rows; ++row, source += stride) {
        std::int64_t column = 0;
        for (; column + 4 * lanes <= columns; column += 4 * lanes) {
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) {
                sums[v] += load(source + column + v * lanes);
            }
        }
        for (; column + lanes <= columns; column += lanes) {
            sums[0] += load(source + column);
        }
        for (; column < columns; ++column) {
            rest += source[column];
        }
    }
    return (sum((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest) / count;
}

}  // namespace wenable::WENABLE_VARIANT
