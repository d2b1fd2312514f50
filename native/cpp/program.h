// A network in one mode: steps in order, and the machine that runs them.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "memory.h"
#include "step.h"
#include "threads.h"

namespace wenable {

// Threads and the memory that they compute in; shared by programs, which run one at a time.
class Machine {
public:
    Machine(std::int32_t threads, const Kernels& kernels);
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    const Kernels& kernels() const { return kernels_; }
    std::int32_t thread_count() const { return threads_.count(); }
    // Bytes that are held for all programs.
    std::int64_t bytes() const;

    // Makes room for a program that needs so many values, and so many more for each thread.
    void reserve(std::int64_t arena, std::int64_t scratch);
    void run(std::span<const std::unique_ptr<Step>> steps, const Memory& memory,
             const std::vector<const float*>& inputs, const std::vector<float*>& outputs, std::int64_t examples);

private:
    const Kernels& kernels_;
    Threads threads_;
    mutable std::mutex mutex_;
    float* values_ = nullptr;
    std::int64_t arena_ = 0, scratch_ = 0, held_ = 0;
};

class Program {
public:
    Program(std::shared_ptr<Machine> machine, std::int64_t arena, std::vector<std::int64_t> inputs,
            std::vector<std::int64_t> outputs);
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    const Memory& memory() const { return memory_; }
    void add(std::unique_ptr<Step> step);
    std::int64_t bytes() const;
    std::int64_t step_count() const { return static_cast<std::int64_t>(steps_.size()); }

    // `inputs` and `outputs` hold `examples` examples each, one behind the other.
    void run(const std::vector<const float*>& inputs, const std::vector<float*>& outputs, std::int64_t examples);

    // The least milliseconds of each step in a number of calls.
    std::vector<double> times(const std::vector<const float*>& inputs, const std::vector<float*>& outputs,
                              std::int64_t calls);

private:
    std::shared_ptr<Machine> machine_;
    Memory memory_;
    std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace wenable
