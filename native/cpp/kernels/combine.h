// Value by value: a scale and a shift, a sum or a product of two, and an activation.
#pragma once

#include "activations.h"

namespace wenable::WENABLE_VARIANT {

template <Combination combination>
WENABLE_INLINE Vector combined(Vector left, Vector right, const CombineCall& call) {
    switch (combination) {
        case Combination::affine: return left * all(call.scale) + all(call.shift);
        case Combination::add: return left + right;
        case Combination::multiply: return left * right;
    }
    __builtin_unreachable();
}

template <Combination combination>
void combine_all(const CombineCall& call) {
    constexpr bool one = combination == Combination::affine;
    const Bounds bounds(call.activation);
    std::int64_t i = 0;
    for (; i + lanes <= call.count; i += lanes) {
        const Vector left = load(call.left + i);
        const Vector right = one ? left : load(call.right + i);
        store(call.output + i, bounds.of(combined<combination>(left, right, call)));
    }
    if (const std::int64_t rest = call.count - i; rest > 0) {
        const Vector left = load_part(call.left + i, rest);
        const Vector right = one ? left : load_part(call.right + i, rest);
        store_part(call.output + i, bounds.of(combined<combination>(left, right, call)), rest);
    }
    apply_smooth(call.activation, call.output, call.count);
}

inline void combine(const CombineCall& call) {
    switch (call.combination) {
        case Combination::affine: return combine_all<Combination::affine>(call);
        case Combination::add: return combine_all<Combination::add>(call);
        case Combination::multiply: return combine_all<Combination::multiply>(call);
    }
}

}  // namespace wenable::WENABLE_VARIANT
