#include "program.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace wenable {

namespace {

constexpr std::int64_t page = 4096, large_page = 2 * 1024 * 1024;

std::int64_t rounded(std::int64_t bytes, std::int64_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

Machine::Machine(std::int32_t threads, const Kernels& kernels) : kernels_(kernels), threads_(threads) {}

Machine::~Machine() { std::free(values_); }

std::int64_t Machine::bytes() const {
    const std::lock_guard lock(mutex_);
    return held_;
}

void Machine::reserve(std::int64_t arena, std::int64_t scratch) {
    const std::lock_guard lock(mutex_);
    if (arena <= arena_ && scratch <= scratch_) {
        return;
    }
    const std::int64_t values = std::max(arena, arena_), own = rounded(std::max(scratch, scratch_), 16);
    // The planes of many channels lie in as many pages: large ones keep their addresses at hand.
    const std::int64_t wanted = 4 * (values + own * threads_.count());
    const std::int64_t alignment = wanted >= large_page ? large_page : page;
    const std::int64_t bytes = rounded(wanted, alignment);
    auto* found = static_cast<float*>(
        std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(bytes)));
    if (found == nullptr) {
        throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    if (alignment == large_page) {
        madvise(found, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
    }
#endif
    std::memset(found, 0, static_cast<std::size_t>(bytes));
    std::free(values_);
    values_ = found;
    arena_ = values;
    scratch_ = own;
    held_ = bytes;
}

void Machine::run(std::span<const std::unique_ptr<Step>> steps, const Memory& memory,
                  const std::vector<const float*>& inputs, const std::vector<float*>& outputs,
                  std::int64_t examples) {
    threads_.require_own_process();
    const std::lock_guard lock(mutex_);
    std::vector<const float*> from = inputs;
    std::vector<float*> to = outputs;
    std::vector<Workspace> workspaces;
    for (std::int32_t thread = 0; thread < threads_.count(); ++thread) {
        float* scratch = values_ + arena_ + scratch_ * thread;
        workspaces.push_back({values_, from.data(), to.data(), scratch});
    }
    for (std::int64_t example = 0; example < examples; ++example) {
        threads_.run(steps, workspaces);
        for (std::size_t i = 0; i < from.size(); ++i) {
            from[i] += memory.inputs[i];
        }
        for (std::size_t i = 0; i < to.size(); ++i) {
            to[i] += memory.outputs[i];
        }
    }
}

Program::Program(std::shared_ptr<Machine> machine, std::int64_t arena, std::vector<std::int64_t> inputs,
                 std::vector<std::int64_t> outputs)
    : machine_(std::move(machine)),
      memory_{arena, std::move(inputs), std::move(outputs), machine_->thread_count(), &machine_->kernels()} {
    require_size("arena", arena, 1);
    for (const std::int64_t size : memory_.inputs) {
        require_size("the values of an input", size, 1);
    }
    for (const std::int64_t size : memory_.outputs) {
        require_size("the values of an output", size, 1);
    }
}

void Program::add(std::unique_ptr<Step> step) {
    machine_->reserve(memory_.arena, step->scratch());
    steps_.push_back(std::move(step));
}

std::int64_t Program::bytes() const {
    std::int64_t total = 0;
    for (const auto& step : steps_) {
        total += step->bytes();
    }
    return total;
}

void Program::run(const std::vector<const float*>& inputs, const std::vector<float*>& outputs,
                  std::int64_t examples) {
    machine_->run(steps_, memory_, inputs, outputs, examples);
}

std::vector<double> Program::times(const std::vector<const float*>& inputs, const std::vector<float*>& outputs,
                                   std::int64_t calls) {
    std::vector<double> least(steps_.size(), 1e300);
    for (std::int64_t call = 0; call < calls; ++call) {
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            const auto started = std::chrono::steady_clock::now();
            machine_->run(std::span(steps_).subspan(i, 1), memory_, inputs, outputs, 1);
            const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
            least[i] = std::min(least[i], took.count());
        }
    }
    return least;
}

}  // namespace wenable
