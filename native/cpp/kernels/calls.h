// What a kernel is told, and the table of all kernels of one instruction set.
//
// Planes are named by their distance, in values, from a base: so a table of them is the same wherever the
// memory lies, and a shuffle of channels is nothing but another table.
#pragma once

#include <cstdint>

namespace wenable {

enum class Activation : std::int32_t {
    none, relu, relu6, hard_sigmoid, hard_swish, sigmoid, silu, gelu, gelu_tanh, tanh
};
constexpr std::int32_t activation_count = 10;

// The most outputs that one call of `convolve` makes: accumulators for more do not fit the registers.
constexpr std::int32_t most_outputs = 6;

// A kernel may write this many values past the end of a plane, less one: a vector of AVX-512.
constexpr std::int64_t overrun = 16;

// The rows of one channel: value (row, column) lies at row * stride + column from the plane's place.
//
// The columns from `columns` to `stride`, `before` values before the first and `after` values behind the
// last are margins; where `clear` is set whoever writes the plane writes zeros there, and a window that
// stands over the edge reads them.
struct Plane {
    std::int64_t rows, columns, stride, before, after;
    bool clear;
    std::int64_t extent() const { return (rows - 1) * stride + columns; }
};

// outputs[o] = activation(scale[o] * (sum over k of weights[k][o] * source[k]) + bias[o] + residual[o]), at
// the positions from..to of flat planes; every source may be a plane moved by some rows and columns.
struct ConvolveCall {
    const float* base;
    float* target;
    const std::int64_t* sources;
    std::int64_t source_count;
    const float* weights;  // [source_count][output_count]
    const float* scale;
    const float* bias;
    const std::int64_t* outputs;
    std::int32_t output_count;
    const float* residual_base;
    const std::int64_t* residuals;  // or null
    Activation activation;
    std::int64_t from, to;
    // Whether nothing may be written past `to`, where another thread's values begin.
    bool exact;
};

// One column of a depthwise window: `count` weights, one below the other, from `offset` in phase `phase`.
struct WindowColumn {
    std::int32_t phase, count;
    std::int64_t offset;
};
constexpr std::int32_t most_column_weights = 5;

struct DepthwiseCall {
    const float* base;
    float* output;
    const std::int64_t* phases;  // the places of the planes of this channel
    const WindowColumn* columns;
    std::int32_t column_count;
    const float* weights;
    float scale, bias;
    Activation activation;
    std::int64_t row_from, row_to, width, stride;
};

// output[row][column] = source[row * row_step + row_first][column * column_step + column_first], zero
// where that is outside.
struct CopyCall {
    const float* source;
    float* output;
    std::int64_t source_rows, source_columns, source_stride;
    std::int64_t row_first, row_step, column_first, column_step;
    std::int64_t rows, columns, stride;
    float fill;
    // Whether a row may be written past its end, where the next one is written later.
    bool spills;
};

enum class Pooling : std::int32_t { maximum, average, average_with_padding };

struct PoolCall {
    const float* source;
    float* output;
    std::int64_t source_rows, source_columns, source_stride;
    std::int64_t rows, columns, stride;
    std::int64_t kernel_rows, kernel_columns, row_step, column_step, row_dilation, column_dilation;
    std::int64_t top, left;
    // The input with its padding ends here: `average_with_padding` counts to it and not further.
    std::int64_t padded_rows, padded_columns;
    Pooling pooling;
    float* line;  // scratch: `line_size` values
};

enum class Combination : std::int32_t { affine, add, multiply };

// output = activation(left * scale + shift), activation(left + right) or activation(left * right).
struct CombineCall {
    const float* left;
    const float* right;
    float* output;
    float scale, shift;
    Combination combination;
    Activation activation;
    std::int64_t count;
};

// outputs[o] = activation(scale[o] * (sum of weights[o / block][k][o % block] * source[k]) + bias[o]).
constexpr std::int64_t dense_block = 16;
struct DenseCall {
    const float* source;
    float* target;
    const std::int64_t* outputs;
    const float* weights;  // of this block of outputs: [source_count][dense_block]
    const float* scale;
    const float* bias;
    std::int64_t source_count, output_count;
    Activation activation;
};

struct Kernels {
    const char* name;
    std::int32_t lanes;
    // Positions that `convolve` takes at once for most numbers of outputs: ranges are multiples of it.
    std::int32_t tile;
    void (*convolve)(const ConvolveCall&);
    void (*depthwise)(const DepthwiseCall&);
    void (*copy)(const CopyCall&);
    void (*pool)(const PoolCall&);
    void (*combine)(const CombineCall&);
    void (*dense)(const DenseCall&);
    float (*mean)(const float* source, std::int64_t rows, std::int64_t columns, std::int64_t stride, float count);
    void (*clear_margins)(float* output, const Plane& plane, std::int64_t from, std::int64_t to);
};

}  // namespace wenable
