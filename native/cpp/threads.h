// The threads that share the work of one call.
//
// Between calls they sleep. Within a call they go through the steps together: each takes pieces of a step
// until none is left, and waits (spinning shortly, then asleep) until those of the others are done. A thread
// that wakes late finds steps already done and catches up; nobody waits for it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "step.h"

namespace wenable {

class Threads {
public:
    explicit Threads(std::int32_t count);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    std::int32_t count() const { return count_; }

    // Runs all steps in order; `workspaces` has one for each thread. One call at a time.
    void run(std::span<const std::unique_ptr<Step>> steps, const std::vector<Workspace>& workspaces);

    // Throws in a process that was forked from the one that made the threads: they are not there.
    void require_own_process() const;

private:
    struct alignas(64) Progress {
        std::atomic<std::int64_t> taken{0}, done{0};
    };

    void serve(std::int32_t number);
    void work(std::int32_t number);
    void close();

    const std::int32_t count_;
    const pid_t process_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool open_ = false, stop_ = false;
    std::uint64_t call_ = 0;
    std::atomic<std::int32_t> inside_{0};
    std::span<const std::unique_ptr<Step>> steps_;
    const std::vector<Workspace>* workspaces_ = nullptr;
    std::vector<Progress> progress_;
    std::vector<std::thread> threads_;
};

}  // namespace wenable
