// Activation functions on vectors. The exponential is a polynomial; see `exponential` for its error.
#pragma once

#include "calls.h"
#include "vectors.h"

namespace wenable::WENABLE_VARIANT {

// exp(x) for |x| <= 87, others as at the ends; relative error below 3e-7.
//
// x = n ln 2 + r with |r| <= ln 2 / 2: exp(r) by a polynomial, 2^n by writing n into the exponent's bits.
WENABLE_INLINE Vector exponential(Vector x) {
    x = at_most(at_least(x, all(-87.0f)), all(87.0f));
    // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
    const Vector magic = all(12582912.0f);
    const Vector shifted = x * all(1.44269504f) + magic;
    const Vector r = x - (shifted - magic) * all(0.693147182f);
    // Fitted to the least relative error over the interval: 9e-8.
    Vector p = all(0.00829031466f);
    p = p * r + all(0.0418979295f);
    p = p * r + all(0.166676362f);
    p = p * r + all(0.499991495f);
    p = p * r + all(0.999999707f);
    p = p * r + all(1.0f);
    const Integers exponent = (reinterpret_cast<Integers>(shifted) - 0x4B400000 + 127) << 23;
    return p * reinterpret_cast<Vector>(exponent);
}

WENABLE_INLINE Vector sigmoid(Vector x) { return all(1.0f) / (all(1.0f) + exponential(-x)); }

WENABLE_INLINE Vector hard_sigmoid(Vector x) {
    return at_most(at_least(x * all(1.0f / 6.0f) + all(0.5f), all(0.0f)), all(1.0f));
}

WENABLE_INLINE Vector hyperbolic_tangent(Vector x) {
    return all(2.0f) * sigmoid(x + x) - all(1.0f);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7, and float's own rounding.
WENABLE_INLINE Vector error_function(Vector x) {
    const Vector size = x < 0 ? -x : x;
    const Vector t = all(1.0f) / (all(1.0f) + all(0.3275911f) * size);
    Vector p = all(1.061405429f);
    p = p * t - all(1.453152027f);
    p = p * t + all(1.421413741f);
    p = p * t - all(0.284496736f);
    p = p * t + all(0.254829592f);
    const Vector result = all(1.0f) - p * t * exponential(-(size * size));
    return x < 0 ? -result : result;
}

template <Activation activation>
WENABLE_INLINE Vector smooth(Vector x) {
    if constexpr (activation == Activation::hard_sigmoid) {
        return hard_sigmoid(x);
    } else if constexpr (activation == Activation::hard_swish) {
        return x * hard_sigmoid(x);
    } else if constexpr (activation == Activation::sigmoid) {
        return sigmoid(x);
    } else if constexpr (activation == Activation::silu) {
        return x / (all(1.0f) + exponential(-x));
    } else if constexpr (activation == Activation::gelu) {
        return all(0.5f) * x * (all(1.0f) + error_function(x * all(0.70710678f)));
    } else if constexpr (activation == Activation::gelu_tanh) {
        const Vector inner = x + all(0.044715f) * x * x * x;
        return all(0.5f) * x * (all(1.0f) + hyperbolic_tangent(all(0.79788456f) * inner));
    } else {
        return hyperbolic_tangent(x);
    }
}

template <Activation activation>
__attribute__((noinline)) void smooth_all(float* values, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
        // Two at once: neither waits for the other.
        const Vector first = smooth<activation>(load(values + i));
        const Vector second = smooth<activation>(load(values + i + lanes));
        store(values + i, first);
        store(values + i + lanes, second);
    }
    for (; i + lanes <= count; i += lanes) {
        store(values + i, smooth<activation>(load(values + i)));
    }
    if (i < count) {
        store_part(values + i, smooth<activation>(load_part(values + i, count - i)), count - i);
    }
}

// What a kernel applies in registers: the activations that only bound a value. The others are applied to
// what it has just stored, which is in the first cache still: so kernels exist once and not once for each.
struct Bounds {
    Vector least, most;
    WENABLE_INLINE explicit Bounds(Activation activation) {
        const bool bounded = activation == Activation::relu || activation == Activation::relu6;
        least = all(bounded ? 0.0f : -__builtin_inff());
        most = all(activation == Activation::relu6 ? 6.0f : __builtin_inff());
    }
    WENABLE_INLINE Vector of(Vector x) const { return at_most(at_least(x, least), most); }
};

WENABLE_INLINE bool is_smooth(Activation activation) { return activation > Activation::relu6; }

inline void apply_smooth(Activation activation, float* values, std::int64_t count) {
    switch (activation) {
        case Activation::hard_sigmoid: return smooth_all<Activation::hard_sigmoid>(values, count);
        case Activation::hard_swish: return smooth_all<Activation::hard_swish>(values, count);
        case Activation::sigmoid: return smooth_all<Activation::sigmoid>(values, count);
        case Activation::silu: return smooth_all<Activation::silu>(values, count);
        case Activation::gelu: return smooth_all<Activation::gelu>(values, count);
        case Activation::gelu_tanh: return smooth_all<Activation::gelu_tanh>(values, count);
        case Activation::tanh: return smooth_all<Activation::tanh>(values, count);
        default: return;
    }
}

}  // namespace wenable::WENABLE_VARIANT
