// The kernels of every instruction set that runs here, against plain loops: for builds without Python.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "../dispatch.h"

using namespace wenable;

namespace {

std::mt19937 generator(1);

std::int64_t whole(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(generator);
}

std::vector<float> numbers(std::int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> found(static_cast<std::size_t>(count));
    for (float& each : found) {
        each = normal(generator);
    }
    return found;
}

float& at(std::vector<float>& values, std::int64_t place) { return values[static_cast<std::size_t>(place)]; }

bool near(double found, double expected) { return std::abs(found - expected) <= 1e-4 * (1 + std::abs(expected)); }

bool test_convolve(const Kernels& kernels) {
    const std::int64_t inputs = whole(1, 40), extent = whole(1, 200), distance = extent + overrun;
    const auto outputs = static_cast<std::int32_t>(whole(1, most_outputs));
    std::vector<float> values = numbers(distance * (inputs + 2 * outputs));
    const std::vector<float> before = values, weights = numbers(inputs * outputs);
    const std::vector<float> scale = numbers(outputs), bias = numbers(outputs);
    std::vector<std::int64_t> sources, places, residuals;
    for (std::int64_t i = 0; i < inputs; ++i) {
        sources.push_back((inputs - 1 - i) * distance);  // in another order, as after a shuffle
    }
    for (std::int64_t o = 0; o < outputs; ++o) {
        places.push_back((inputs + o) * distance);
        residuals.push_back((inputs + outputs + o) * distance);
    }
    const bool exact = whole(0, 1) != 0;
    kernels.convolve({values.data(), values.data(), sources.data(), inputs, weights.data(), scale.data(), bias.data(),
                      places.data(), outputs, values.data(), residuals.data(), Activation::relu, 0, extent, exact});
    for (std::int64_t o = 0; o < outputs; ++o) {
        for (std::int64_t x = 0; x < extent; ++x) {
            double sum = 0;
            for (std::int64_t i = 0; i < inputs; ++i) {
                sum += double(weights[static_cast<std::size_t>(i * outputs + o)]) *
                       before[static_cast<std::size_t>(sources[static_cast<std::size_t>(i)] + x)];
            }
            const auto number = static_cast<std::size_t>(o);
            const double value = scale[number] * sum + bias[number] +
                                 before[static_cast<std::size_t>(residuals[number] + x)];
            if (!near(at(values, places[number] + x), value > 0 ? value : 0)) {
                return false;
            }
        }
        for (std::int64_t x = extent; exact && x < distance; ++x) {
            const std::int64_t place = places[static_cast<std::size_t>(o)] + x;
            if (at(values, place) != before[static_cast<std::size_t>(place)]) {
                return false;
            }
        }
    }
    return true;
}

bool test_depthwise(const Kernels& kernels) {
    const std::int64_t rows = whole(1, 20), columns = whole(1, 40), size = whole(0, 2) * 2 + 1, pad = size / 2;
    const std::int64_t stride = columns + pad, origin = pad * stride + pad;
    const std::int64_t room = origin + (rows + pad) * stride + 8 * overrun;
    std::vector<float> source(static_cast<std::size_t>(room)), output = numbers(room);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
            at(source, origin + row * stride + column) = numbers(1)[0];
        }
    }
    const std::vector<float> weights = numbers(size * size);  // column by column
    std::vector<WindowColumn> window;
    for (std::int64_t c = 0; c < size; ++c) {
        window.push_back({0, static_cast<std::int32_t>(size), -pad * stride + c - pad});
    }
    const std::vector<std::int64_t> phases{origin};
    kernels.depthwise({source.data(), output.data() + origin, phases.data(), window.data(),
                       static_cast<std::int32_t>(size), weights.data(), 2.0f, 0.5f, Activation::none, 0, rows, columns,
                       stride});
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
            double sum = 0;
            for (std::int64_t y = 0; y < size; ++y) {
                for (std::int64_t x = 0; x < size; ++x) {
                    const std::int64_t r = row + y - pad, c = column + x - pad;
                    if (r >= 0 && r < rows && c >= 0 && c < columns) {
                        sum += double(weights[static_cast<std::size_t>(x * size + y)]) *
                               at(source, origin + r * stride + c);
                    }
                }
            }
            if (!near(at(output, origin + row * stride + column), 2 * sum + 0.5)) {
                return false;
            }
        }
    }
    return true;
}

// A window of 3 x 3 that moves by two: rows -1 and 0 of one phase, row 0 of another.
bool test_depthwise_in_phases(const Kernels& kernels) {
    const std::int64_t rows = whole(1, 30), columns = whole(1, 40), stride = columns + 1, origin = stride + 1;
    const std::int64_t room = origin + (rows + 1) * stride + 8 * overrun;
    const std::vector<float> source = numbers(4 * room), weights = numbers(9);  // column by column, the middle first
    std::vector<float> output(static_cast<std::size_t>(room));
    const std::vector<std::int64_t> phases{origin, origin + room, origin + 2 * room, origin + 3 * room};
    const std::vector<WindowColumn> window{{1, 1, -1}, {3, 2, -stride - 1}, {0, 1, 0}, {2, 2, -stride}, {1, 1, 0}, {3, 2, -stride}};
    kernels.depthwise({source.data(), output.data() + origin, phases.data(), window.data(), 6, weights.data(), 2.0f, 0.5f,
                       Activation::none, 0, rows, columns, stride});
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
            double sum = 0;
            std::size_t weight = 0;
            for (const WindowColumn& each : window) {
                for (std::int32_t k = 0; k < each.count; ++k, ++weight) {
                    const std::int64_t place = phases[static_cast<std::size_t>(each.phase)] + each.offset +
                                               (row + k) * stride + column;
                    sum += double(weights[weight]) * source[static_cast<std::size_t>(place)];
                }
            }
            if (!near(at(output, origin + row * stride + column), 2 * sum + 0.5)) {
                return false;
            }
        }
    }
    return true;
}

// Every other value of every other row, where a vector may be written past the end of a row.
bool test_copy_of_a_phase(const Kernels& kernels) {
    const std::int64_t rows = whole(1, 20), columns = whole(1, 70), first = whole(0, 1), stride = columns / 2 + 2;
    const std::vector<float> source = numbers(rows * columns);  // nothing may be read behind it
    const std::int64_t made_rows = (rows + 1) / 2, made_columns = (columns + 1) / 2;
    std::vector<float> output = numbers(made_rows * stride + overrun);
    kernels.copy({source.data(), output.data(), rows, columns, columns, first, 2, first, 2, made_rows, made_columns, stride,
                  7.0f, true});
    for (std::int64_t row = 0; row < made_rows; ++row) {
        for (std::int64_t column = 0; column < made_columns; ++column) {
            const std::int64_t r = 2 * row + first, c = 2 * column + first;
            const float expected = r < rows && c < columns ? source[static_cast<std::size_t>(r * columns + c)] : 7.0f;
            if (at(output, row * stride + column) != expected) {
                return false;
            }
        }
    }
    return true;
}

bool test_dense(const Kernels& kernels) {
    const std::int64_t inputs = whole(1, 100), outputs = whole(1, dense_block);
    const std::vector<float> source = numbers(inputs), weights = numbers(inputs * dense_block);
    const std::vector<float> scale = numbers(outputs), bias = numbers(outputs);
    std::vector<float> found(static_cast<std::size_t>(outputs));
    std::vector<std::int64_t> places;
    for (std::int64_t o = 0; o < outputs; ++o) {
        places.push_back(outputs - 1 - o);
    }
    kernels.dense({source.data(), found.data(), places.data(), weights.data(), scale.data(), bias.data(), inputs, outputs,
                   Activation::sigmoid});
    for (std::int64_t o = 0; o < outputs; ++o) {
        double sum = 0;
        for (std::int64_t i = 0; i < inputs; ++i) {
            sum += double(weights[static_cast<std::size_t>(i * dense_block + o)]) * source[static_cast<std::size_t>(i)];
        }
        const auto number = static_cast<std::size_t>(o);
        if (!near(at(found, outputs - 1 - o), 1 / (1 + std::exp(-(scale[number] * sum + bias[number]))))) {
            return false;
        }
    }
    return true;
}

bool test_combine(const Kernels& kernels) {
    const std::int64_t count = whole(1, 100);
    const std::vector<float> left = numbers(count);
    std::vector<float> output = numbers(count + overrun);
    const std::vector<float> before = output;
    kernels.combine({left.data(), nullptr, output.data(), 3.0f, 0.25f, Combination::affine, Activation::silu, count});
    for (std::int64_t i = 0; i < count + overrun; ++i) {
        const double x = i < count ? 3.0 * left[static_cast<std::size_t>(i)] + 0.25 : 0;
        const double expected = i < count ? x / (1 + std::exp(-x)) : before[static_cast<std::size_t>(i)];
        if (!near(at(output, i), expected)) {
            return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    const struct {
        const char* name;
        bool (*run)(const Kernels&);
    } tests[] = {
        {"convolve", test_convolve},
        {"depthwise", test_depthwise},
        {"depthwise in phases", test_depthwise_in_phases},
        {"copy of a phase", test_copy_of_a_phase},
        {"dense", test_dense},
        {"combine", test_combine}};
    int wrong = 0;
    for (const std::string& variant : usable_variants()) {
        for (const auto& test : tests) {
            int failures = 0;
            for (int i = 0; i < 200; ++i) {
                failures += test.run(kernels_named(variant)) ? 0 : 1;
            }
            std::printf("%s %s: %s\n", variant.c_str(), test.name, failures == 0 ? "200 shapes" : "WRONG");
            wrong += failures;
        }
    }
    return wrong == 0 ? 0 : 1;
}
