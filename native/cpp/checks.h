// What is read from a file is checked when a program is built, before any kernel runs.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/calls.h"

namespace wenable {

using Table = std::span<const std::int64_t>;
using Values = std::span<const float>;

inline std::string as_text(const char* text) { return text; }
inline std::string as_text(const std::string& text) { return text; }
inline std::string as_text(std::int64_t number) { return std::to_string(number); }

// Throws what `parts` say, put together, where the condition does not hold.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
    if (!condition) {
        std::string text;
        (text.append(as_text(parts)), ...);
        throw std::invalid_argument(text);
    }
}

// No size of a program comes near it, and products of two stay far from overflow.
constexpr std::int64_t most_size = std::int64_t{1} << 30;

inline void require_size(const char* name, std::int64_t value, std::int64_t least = 0) {
    require(value >= least && value <= most_size, "`", name, "` (=", value, ") must be from ", least, " to ", most_size);
}

inline void require_plane(const Plane& plane) {
    require_size("rows", plane.rows, 1);
    require_size("columns", plane.columns, 1);
    require_size("stride", plane.stride, plane.columns);
    require_size("before", plane.before);
    require_size("after", plane.after);
    require_size("the values of a plane", plane.rows * plane.stride);
}

// Every place of `table` must leave `before` values in front and `after` behind it within `size`.
inline void require_places(const char* name, Table table, std::int64_t before, std::int64_t after,
                           std::int64_t size) {
    for (const std::int64_t place : table) {
        require(place >= before && place <= size - after, "`", name, "` has the place ", place,
                ", which is outside of ", size, " values");
    }
}

inline void require_length(const char* name, std::int64_t found, std::int64_t wanted) {
    require(found == wanted, "`", name, "` has ", found, " entries, not ", wanted);
}

inline Activation checked_activation(std::int64_t number) {
    require(number >= 0 && number < activation_count, "`activation` (=", number, ") is unknown");
    return static_cast<Activation>(number);
}

}  // namespace wenable
