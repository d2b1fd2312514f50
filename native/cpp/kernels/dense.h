// Dense layers on a vector: sixteen outputs at once, whose weights for one input lie side by side.
#pragma once

#include "activations.h"

namespace wenable::WENABLE_VARIANT {

constexpr int dense_vectors = dense_block / lanes;
// Sums that do not wait for each other, so that the next multiplication need not wait for the last.
constexpr int dense_chains = dense_vectors >= 8 ? 1 : 8 / dense_vectors;

inline void dense(const DenseCall& call) {
    Vector sums[dense_chains][dense_vectors] = {};
    const float* weights = call.weights;
    std::int64_t k = 0;
    for (; k + dense_chains <= call.source_count; k += dense_chains) {
#pragma GCC unroll 8
        for (int chain = 0; chain < dense_chains; ++chain, weights += dense_block) {
            const Vector value = all(call.source[k + chain]);
#pragma GCC unroll 8
            for (int v = 0; v < dense_vectors; ++v) {
                sums[chain][v] += value * load(weights + v * lanes);
            }
        }
    }
    for (; k < call.source_count; ++k, weights += dense_block) {
        const Vector value = all(call.source[k]);
#pragma GCC unroll 8
        for (int v = 0; v < dense_vectors; ++v) {
            sums[0][v] += value * load(weights + v * lanes);
        }
    }
    float results[dense_block];
    for (int v = 0; v < dense_vectors; ++v) {
        for (int chain = 1; chain < dense_chains; ++chain) {
            sums[0][v] += sums[chain][v];
        }
        store(results + v * lanes, sums[0][v]);
    }
    const Vector least = Bounds(call.activation).least;
    const Vector most = Bounds(call.activation).most;
    for (std::int64_t o = 0; o < call.output_count; ++o) {
        const float value = results[o] * call.scale[o] + call.bias[o];
        results[o] = value < least[0] ? least[0] : value > most[0] ? most[0] : value;
    }
    apply_smooth(call.activation, results, call.output_count);
    for (std::int64_t o = 0; o < call.output_count; ++o) {
        call.target[call.outputs[o]] = results[o];
    }
}

}  // namespace wenable::WENABLE_VARIANT
