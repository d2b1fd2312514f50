// Copies of a plane: moved, cut, spread by a step (one phase of a stride), or into another stride.
#pragma once

#include "calls.h"
#include "vectors.h"

namespace wenable::WENABLE_VARIANT {

// The positions from..to of `size` ones whose source, position * step + first, is one of `source_size`.
struct Range {
    std::int64_t from, to;
};

inline Range inside(std::int64_t size, std::int64_t first, std::int64_t step, std::int64_t source_size) {
    std::int64_t from = first >= 0 ? 0 : (-first + step - 1) / step;
    std::int64_t to = source_size <= first ? 0 : (source_size - first + step - 1) / step;
    from = from < size ? from : size;
    to = to < size ? to : size;
    return {from, to < from ? from : to};
}

WENABLE_INLINE void fill(float* output, std::int64_t count, float value) {
    const Vector values = all(value);
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        store(output + i, values);
    }
    if (i > 0 && i < count) {
        store(output + count - lanes, values);  // over some that are written already
    } else {
        for (; i < count; ++i) {
            output[i] = value;
        }
    }
}

#if defined(__AVX512F__)
#define WENABLE_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif defined(__AVX2__)
#define WENABLE_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#else
#define WENABLE_EVEN 0, 2, 4, 6
#endif

// Every other value, from the first. `readable` values may be read, `writable` written: `count` or more.
WENABLE_INLINE void copy_every_other(const float* source, float* output, std::int64_t count,
                                     std::int64_t readable, std::int64_t writable) {
    std::int64_t i = 0;
    for (; i < count && i + lanes <= writable && 2 * (i + lanes) <= readable; i += lanes) {
        store(output + i,
              __builtin_shufflevector(load(source + 2 * i), load(source + 2 * i + lanes), WENABLE_EVEN));
    }
    for (; i < count; ++i) {
        output[i] = source[2 * i];
    }
}

WENABLE_INLINE void copy_line(const float* source, float* output, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        store(output + i, load(source + i));
    }
    for (; i < count; ++i) {
        output[i] = source[i];
    }
}

inline void copy(const CopyCall& call) {
    const Range rows = inside(call.rows, call.row_first, call.row_step, call.source_rows);
    const Range columns = inside(call.columns, call.column_first, call.column_step, call.source_columns);
    const float* source_end = call.source + (call.source_rows - 1) * call.source_stride + call.source_columns;
    for (std::int64_t row = 0; row < call.rows; ++row) {
        float* output = call.output + row * call.stride;
        if (row < rows.from || row >= rows.to || columns.from == columns.to) {
            fill(output, call.columns, call.fill);
            continue;
        }
        fill(output, columns.from, call.fill);
        const float* source = call.source + (row * call.row_step + call.row_first) * call.source_stride +
                              columns.from * call.column_step + call.column_first;
        const std::int64_t count = columns.to - columns.from;
        if (call.column_step == 1) {
            copy_line(source, output + columns.from, count);
        } else if (call.column_step == 2) {
            copy_every_other(source, output + columns.from, count, source_end - source,
                             call.spills ? count + lanes : count);
        } else {
            for (std::int64_t i = 0; i < count; ++i) {
                output[columns.from + i] = source[i * call.column_step];
            }
        }
        fill(output + columns.to, call.columns - columns.to, call.fill);
    }
}

// Writes the zeros around the values of a plane that lie at from..to; those before the first value with
// the first range, those behind the last with the last.
inline void clear_margins(float* output, const Plane& plane, std::int64_t from, std::int64_t to) {
    if (!plane.clear) {
        return;
    }
    if (from == 0) {
        fill(output - plane.before, plane.before, 0.0f);
    }
    if (plane.stride == plane.columns + 1 && from == 0 && to >= plane.extent()) {
        float* margin = output + plane.columns;
        for (std::int64_t row = 0; row < plane.rows - 1; ++row, margin += plane.stride) {
            *margin = 0.0f;
        }
    } else if (plane.stride > plane.columns) {
        for (std::int64_t row = from / plane.stride; row < plane.rows - 1; ++row) {
            std::int64_t first = row * plane.stride + plane.columns;
            std::int64_t last = (row + 1) * plane.stride;
            if (first >= to) {
                break;
            }
            first = first < from ? from : first;
            last = last > to ? to : last;
            for (std::int64_t i = first; i < last; ++i) {
                output[i] = 0.0f;
            }
        }
    }
    if (to >= plane.extent()) {
        fill(output + plane.extent(), plane.after, 0.0f);
    }
}

}  // namespace wenable::WENABLE_VARIANT
