// The Python module: machines, and programs that are built step by step.
//
// A program does not copy the arrays that it is given: weights that several modes share are held once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>

#include "dispatch.h"
#include "program.h"
#include "steps/chain.h"
#include "steps/convolution.h"
#include "steps/dense.h"
#include "steps/depthwise.h"
#include "steps/planes.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace wenable {

namespace {

template <class Value>
using Array = nb::ndarray<const Value, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Whole = Array<std::int64_t>;
using Floats = Array<float>;
using PlaneEntries = std::array<std::int64_t, 6>;
using Image = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

Table table(const Whole& array) { return {array.data(), array.size()}; }
Values values(const Floats& array) { return {array.data(), array.size()}; }
Plane plane(const PlaneEntries& e) { return {e[0], e[1], e[2], e[3], e[4], e[5] != 0}; }

// A program and what keeps its arrays alive.
class Builder {
public:
    Builder(std::shared_ptr<Machine> machine, std::int64_t arena, std::vector<std::int64_t> inputs,
            std::vector<std::int64_t> outputs)
        : program_(std::move(machine), arena, std::move(inputs), std::move(outputs)) {}

    void convolution(Whole sources, Whole units, Whole outputs, Whole residuals, Whole input_scales, Floats weights,
                     Floats scale, Floats bias, const std::vector<PlaneEntries>& planes, std::int64_t activation) {
        std::vector<Plane> shapes;
        for (const PlaneEntries& each : planes) {
            shapes.push_back(plane(each));
        }
        program_.add(std::make_unique<ConvolutionStep>(
            ConvolutionParts{table(sources), table(units), table(outputs), table(residuals), table(input_scales),
                             values(weights), values(scale), values(bias), shapes, activation},
            program_.memory()));
        keep({sources, units, outputs, residuals, input_scales}, {scale, bias});
        shared_.push_back(weights);
    }

    // `expansion`, `projection`: sources, units, outputs, residuals; `depthwise`: phases, columns, outputs.
    void chain(const std::array<Whole, 4>& expansion, const std::array<Floats, 3>& expansion_values,
               const std::vector<PlaneEntries>& expansion_planes, std::int64_t expansion_activation,
               const std::array<Whole, 3>& depthwise, const std::array<Floats, 3>& depthwise_values,
               std::int64_t phase_count, const PlaneEntries& depthwise_plane, std::int64_t depthwise_activation,
               const std::array<Whole, 4>& projection, const std::array<Floats, 3>& projection_values,
               const PlaneEntries& projection_plane, std::int64_t projection_activation, Whole parts, Whole cells,
               std::int64_t scratch) {
        const ConvolutionParts widening = convolution_parts(expansion, expansion_values, expansion_planes,
                                                            expansion_activation);
        const ConvolutionParts narrowing = convolution_parts(projection, projection_values, {projection_plane},
                                                             projection_activation);
        const DepthwiseParts between{table(depthwise[0]), table(depthwise[1]), table(depthwise[2]),
                                     values(depthwise_values[0]), values(depthwise_values[1]),
                                     values(depthwise_values[2]), phase_count, plane(depthwise_plane),
                                     depthwise_activation};
        program_.add(std::make_unique<ChainStep>(
            ChainParts{widening, between, narrowing, table(parts), table(cells), scratch}, program_.memory()));
        for (const auto& tables : {expansion, projection}) {
            keep({tables[0], tables[1], tables[2], tables[3]}, {});
        }
        keep({depthwise[0], depthwise[1], depthwise[2], parts, cells}, {});
        for (const auto& floats : {expansion_values, depthwise_values, projection_values}) {
            shared_.push_back(floats[0]);
            keep({}, {floats[1], floats[2]});
        }
    }

    void depthwise(Whole phases, Whole columns, Whole outputs, Floats weights, Floats scale, Floats bias,
                   std::int64_t phase_count, const PlaneEntries& shape, std::int64_t activation) {
        program_.add(std::make_unique<DepthwiseStep>(
            DepthwiseParts{table(phases), table(columns), table(outputs), values(weights), values(scale),
                           values(bias), phase_count, plane(shape), activation},
            program_.memory()));
        keep({phases, columns, outputs}, {scale, bias});
        shared_.push_back(weights);
    }

    void dense(Whole sources, Whole outputs, Floats weights, Floats scale, Floats bias, std::int64_t groups,
               std::int64_t activation) {
        program_.add(std::make_unique<DenseStep>(DenseParts{table(sources), table(outputs), values(weights),
                                                            values(scale), values(bias), groups, activation},
                                                 program_.memory()));
        keep({sources, outputs}, {scale, bias});
        shared_.push_back(weights);
    }

    void copy(Whole sources, Whole outputs, std::int64_t input, std::int64_t output, const PlaneEntries& source,
              const PlaneEntries& target, const std::array<std::int64_t, 4>& steps, float fill) {
        program_.add(std::make_unique<CopyStep>(
            CopyParts{table(sources), table(outputs), input, output, plane(source), plane(target), steps[0],
                      steps[1], steps[2], steps[3], fill},
            program_.memory()));
        keep({sources, outputs}, {});
    }

    // `outputs`: phase by phase; `firsts`: the first row and column of each; `steps`: of rows and columns.
    void phases(Whole sources, Whole outputs, std::int64_t input, const PlaneEntries& source,
                const std::vector<PlaneEntries>& targets, const std::vector<std::array<std::int64_t, 2>>& firsts,
                const std::array<std::int64_t, 2>& steps) {
        require_length("firsts", static_cast<std::int64_t>(firsts.size()), static_cast<std::int64_t>(targets.size()));
        require_length("outputs", static_cast<std::int64_t>(outputs.size()),
                       static_cast<std::int64_t>(sources.size() * targets.size()));
        std::vector<CopyParts> copies;
        for (std::size_t i = 0; i < targets.size(); ++i) {
            copies.push_back({table(sources), table(outputs).subspan(i * sources.size(), sources.size()), input, -1,
                              plane(source), plane(targets[i]), firsts[i][0], steps[0], firsts[i][1], steps[1], 0.0f,
                              true});
        }
        program_.add(std::make_unique<PhasesStep>(copies, program_.memory()));
        keep({sources, outputs}, {});
    }

    void pool(Whole sources, Whole outputs, const PlaneEntries& source, const PlaneEntries& target,
              const std::array<std::int64_t, 10>& window, std::int64_t pooling) {
        const auto& w = window;
        program_.add(std::make_unique<PoolStep>(
            PoolParts{table(sources), table(outputs), plane(source), plane(target), w[0], w[1], w[2], w[3], w[4], w[5],
                      w[6], w[7], w[8], w[9], pooling},
            program_.memory()));
        keep({sources, outputs}, {});
    }

    void mean(Whole sources, Whole outputs, const PlaneEntries& source) {
        program_.add(
            std::make_unique<MeanStep>(MeanParts{table(sources), table(outputs), plane(source)}, program_.memory()));
        keep({sources, outputs}, {});
    }

    void combine(Whole left, Whole right, Whole outputs, Floats scale, Floats shift, std::int64_t operand,
                 std::int64_t activation, const PlaneEntries& shape) {
        program_.add(std::make_unique<CombineStep>(CombineParts{table(left), table(right), table(outputs),
                                                                values(scale), values(shift), operand, activation,
                                                                plane(shape)},
                                                   program_.memory()));
        keep({left, right, outputs}, {scale, shift});
    }

    void run(const std::vector<Image>& inputs, const std::vector<Result>& outputs) {
        const auto [from, to, examples] = checked(inputs, outputs);
        const nb::gil_scoped_release release;
        program_.run(from, to, examples);
    }

    std::vector<double> times(const std::vector<Image>& inputs, const std::vector<Result>& outputs,
                              std::int64_t calls) {
        const auto [from, to, examples] = checked(inputs, outputs);
        require(examples == 1, "steps are timed for one example");
        require_size("calls", calls, 1);
        return program_.times(from, to, calls);
    }

    std::int64_t bytes() const { return bytes_ + program_.bytes(); }
    std::int64_t step_count() const { return program_.step_count(); }

private:
    static ConvolutionParts convolution_parts(const std::array<Whole, 4>& tables, const std::array<Floats, 3>& floats,
                                              const std::vector<PlaneEntries>& planes, std::int64_t activation) {
        ConvolutionParts parts{table(tables[0]), table(tables[1]), table(tables[2]), table(tables[3]), {},
                               values(floats[0]), values(floats[1]), values(floats[2]), {}, activation};
        for (const PlaneEntries& each : planes) {
            parts.planes.push_back(plane(each));
        }
        return parts;
    }

    struct Call {
        std::vector<const float*> inputs;
        std::vector<float*> outputs;
        std::int64_t examples;
    };

    Call checked(const std::vector<Image>& inputs, const std::vector<Result>& outputs) const {
        const Memory& memory = program_.memory();
        require_length("inputs", static_cast<std::int64_t>(inputs.size()), static_cast<std::int64_t>(memory.inputs.size()));
        require_length("outputs", static_cast<std::int64_t>(outputs.size()),
                       static_cast<std::int64_t>(memory.outputs.size()));
        require(!inputs.empty(), "a program without inputs");
        Call call{{}, {}, static_cast<std::int64_t>(inputs[0].size()) / memory.inputs[0]};
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            require_length("an input", static_cast<std::int64_t>(inputs[i].size()), call.examples * memory.inputs[i]);
            call.inputs.push_back(inputs[i].data());
        }
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            require_length("an output", static_cast<std::int64_t>(outputs[i].size()),
                           call.examples * memory.outputs[i]);
            call.outputs.push_back(outputs[i].data());
        }
        return call;
    }

    void keep(std::initializer_list<Whole> tables, std::initializer_list<Floats> floats) {
        for (const Whole& each : tables) {
            bytes_ += static_cast<std::int64_t>(each.nbytes());
            tables_.push_back(each);
        }
        for (const Floats& each : floats) {
            bytes_ += static_cast<std::int64_t>(each.nbytes());
            floats_.push_back(each);
        }
    }

    Program program_;
    std::vector<Whole> tables_;
    std::vector<Floats> floats_;
    // Weights, which other programs may read too: `bytes` leaves them out.
    std::vector<Floats> shared_;
    std::int64_t bytes_ = 0;
};

}  // namespace

}  // namespace wenable

NB_MODULE(_kernels, m) {
    using namespace wenable;
    // A forked process abandons machines on purpose: their threads did not come along.
    nb::set_leak_warnings(false);
    m.doc() = "Kernels for whole networks with weight-enabled layers.";
    m.attr("OVERRUN") = overrun;
    m.attr("MOST_OUTPUTS") = most_outputs;
    m.attr("MOST_COLUMN_WEIGHTS") = most_column_weights;
    m.attr("DENSE_BLOCK") = dense_block;
    m.attr("UNIT_ENTRIES") = unit_entries;
    m.def("usable_variants", &usable_variants, "The instruction sets that run here, the best first.");
    nb::class_<Machine>(m, "Machine")
        .def("__init__",
             [](Machine* self, std::int32_t threads, const std::string& variant) {
                 require(threads >= 1 && threads <= 1024, "`threads` must be from 1 to 1024");
                 new (self) Machine(threads, kernels_named(variant));
             },
             "threads"_a, "variant"_a = "")
        .def_prop_ro("variant", [](const Machine& self) { return std::string(self.kernels().name); })
        .def_prop_ro("threads", &Machine::thread_count)
        .def_prop_ro("bytes", &Machine::bytes);
    nb::class_<Builder>(m, "Program")
        .def(nb::init<std::shared_ptr<Machine>, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>(),
             "machine"_a, "arena"_a, "inputs"_a, "outputs"_a)
        .def("convolution", &Builder::convolution, nb::kw_only(), "sources"_a, "units"_a, "outputs"_a, "residuals"_a,
             "input_scales"_a, "weights"_a, "scale"_a, "bias"_a, "planes"_a, "activation"_a)
        .def("chain", &Builder::chain, nb::kw_only(), "expansion"_a, "expansion_values"_a, "expansion_planes"_a,
             "expansion_activation"_a, "depthwise"_a, "depthwise_values"_a, "phase_count"_a, "depthwise_plane"_a,
             "depthwise_activation"_a, "projection"_a, "projection_values"_a, "projection_plane"_a,
             "projection_activation"_a, "parts"_a, "cells"_a, "scratch"_a)
        .def("depthwise", &Builder::depthwise, nb::kw_only(), "phases"_a, "columns"_a, "outputs"_a, "weights"_a,
             "scale"_a, "bias"_a, "phase_count"_a, "plane"_a, "activation"_a)
        .def("dense", &Builder::dense, nb::kw_only(), "sources"_a, "outputs"_a, "weights"_a, "scale"_a, "bias"_a,
             "groups"_a, "activation"_a)
        .def("copy", &Builder::copy, nb::kw_only(), "sources"_a, "outputs"_a, "input"_a, "output"_a, "source"_a,
             "target"_a, "steps"_a, "fill"_a)
        .def("phases", &Builder::phases, nb::kw_only(), "sources"_a, "outputs"_a, "input"_a, "source"_a, "targets"_a,
             "firsts"_a, "steps"_a)
        .def("pool", &Builder::pool, nb::kw_only(), "sources"_a, "outputs"_a, "source"_a, "target"_a, "window"_a,
             "pooling"_a)
        .def("mean", &Builder::mean, nb::kw_only(), "sources"_a, "outputs"_a, "source"_a)
        .def("combine", &Builder::combine, nb::kw_only(), "left"_a, "right"_a, "outputs"_a, "scale"_a, "shift"_a,
             "operand"_a, "activation"_a, "plane"_a)
        .def("run", &Builder::run, "inputs"_a, "outputs"_a)
        .def("times", &Builder::times, "inputs"_a, "outputs"_a, "calls"_a)
        .def_prop_ro("bytes", &Builder::bytes)
        .def_prop_ro("steps", &Builder::step_count);
}
