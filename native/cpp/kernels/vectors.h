// Vectors as wide as the registers of the instruction set that this file is compiled for.
//
// Everything in kernels/ is compiled once for each instruction set, in a namespace of its own. It calls no
// function of the standard library: the linker keeps one copy of an inline function, and that copy might be
// the one for a processor that is not there.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef WENABLE_VARIANT
#error "compile with -DWENABLE_VARIANT=name, see CMakeLists.txt"
#endif

#define WENABLE_INLINE inline __attribute__((always_inline))

namespace wenable::WENABLE_VARIANT {

#if defined(__AVX512F__)
constexpr int lanes = 16;
constexpr int registers = 32;
#elif defined(__AVX2__)
constexpr int lanes = 8;
constexpr int registers = 16;
#elif defined(__aarch64__)
constexpr int lanes = 4;
constexpr int registers = 32;
#else
constexpr int lanes = 4;
constexpr int registers = 16;
#endif

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef std::int32_t Integers __attribute__((vector_size(lanes * 4)));

// The same bytes wherever they lie: no kernel asks for aligned addresses.
typedef float LooseVector __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

WENABLE_INLINE Vector load(const float* from) { return *reinterpret_cast<const LooseVector*>(from); }

WENABLE_INLINE void store(float* to, Vector values) { *reinterpret_cast<LooseVector*>(to) = values; }

// Less zero, and not plus: -0 + 0 is 0, so a compiler could not leave the sum out.
WENABLE_INLINE Vector all(float value) { return value - Vector{}; }

// The first `count` lanes only, for what ends where something else begins.
WENABLE_INLINE Vector load_part(const float* from, std::int64_t count) {
    float values[lanes] = {};
    for (std::int64_t lane = 0; lane < count; ++lane) {
        values[lane] = from[lane];
    }
    return load(values);
}

WENABLE_INLINE void store_part(float* to, Vector vector, std::int64_t count) {
    float values[lanes];
    store(values, vector);
    for (std::int64_t lane = 0; lane < count; ++lane) {
        to[lane] = values[lane];
    }
}

// Both keep a NaN of `value`, as max and min of one operand and a constant should. What x86 has an
// instruction for, compilers write as a comparison and a choice, whose operands they may not swap.
// The masked forms of 512 bits with all lanes enabled are the plain instruction; the plain forms are written
// in GCC's headers with an undefined vector, of which it warns under the sanitizers.
WENABLE_INLINE Vector at_least(Vector value, Vector least) {
#if defined(__AVX512F__)
    return _mm512_mask_max_ps(value, 0xffff, least, value);
#elif defined(__AVX2__)
    return _mm256_max_ps(least, value);
#elif defined(__SSE2__)
    return _mm_max_ps(least, value);
#else
    return least > value ? least : value;
#endif
}

WENABLE_INLINE Vector at_most(Vector value, Vector most) {
#if defined(__AVX512F__)
    return _mm512_mask_min_ps(value, 0xffff, most, value);
#elif defined(__AVX2__)
    return _mm256_min_ps(most, value);
#elif defined(__SSE2__)
    return _mm_min_ps(most, value);
#else
    return most < value ? most : value;
#endif
}

WENABLE_INLINE float sum(Vector values) {
    float total = 0;
    for (int lane = 0; lane < lanes; ++lane) {
        total += values[lane];
    }
    return total;
}

}  // namespace wenable::WENABLE_VARIANT
