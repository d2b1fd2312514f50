#include "threads.h"

#include <unistd.h>

#include <stdexcept>

#include "denormals.h"

namespace wenable {

namespace {

// Looks that a thread takes before it sleeps: some microseconds, as long as most pieces take.
constexpr int looks = 4000;

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void wait_until(std::atomic<std::int64_t>& value, std::int64_t wanted) {
    for (int look = 0; look < looks; ++look) {
        if (value.load(std::memory_order_acquire) == wanted) {
            return;
        }
        breathe();
    }
    for (std::int64_t seen = value.load(std::memory_order_acquire); seen != wanted;
         seen = value.load(std::memory_order_acquire)) {
        value.wait(seen, std::memory_order_acquire);
    }
}

}  // namespace

Threads::Threads(std::int32_t count) : count_(count), process_(getpid()) {
    for (std::int32_t number = 1; number < count; ++number) {
        threads_.emplace_back([this, number] { serve(number); });
    }
}

Threads::~Threads() {
    if (getpid() != process_) {
        for (std::thread& thread : threads_) {
            thread.detach();
        }
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

void Threads::require_own_process() const {
    if (getpid() != process_) {
        throw std::runtime_error(
            "the session was opened before the process was forked, and its threads stayed behind: open it in the "
            "process that runs it");
    }
}

void Threads::run(std::span<const std::unique_ptr<Step>> steps, const std::vector<Workspace>& workspaces) {
    const FlushDenormals flush;
    if (count_ == 1) {
        for (const auto& step : steps) {
            const std::int64_t tasks = step->tasks();
            for (std::int64_t task = 0; task < tasks; ++task) {
                step->run(task, workspaces[0]);
            }
        }
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        if (progress_.size() < steps.size()) {
            progress_ = std::vector<Progress>(steps.size());
        }
        for (Progress& each : progress_) {
            each.taken.store(0, std::memory_order_relaxed);
            each.done.store(0, std::memory_order_relaxed);
        }
        steps_ = steps;
        workspaces_ = &workspaces;
        open_ = true;
        ++call_;
    }
    wake_.notify_all();
    work(0);
    close();
}

// No thread may be among the steps any more when they, or the counters, are used for something else.
void Threads::close() {
    {
        const std::lock_guard lock(mutex_);
        open_ = false;
    }
    while (inside_.load(std::memory_order_acquire) != 0) {
        std::this_thread::yield();
    }
}

void Threads::serve(std::int32_t number) {
    const FlushDenormals flush;
    std::uint64_t served = 0;
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return stop_ || (open_ && call_ != served); });
            if (stop_) {
                return;
            }
            served = call_;
            inside_.fetch_add(1, std::memory_order_relaxed);
        }
        work(number);
        inside_.fetch_sub(1, std::memory_order_release);
    }
}

void Threads::work(std::int32_t number) {
    const Workspace& workspace = (*workspaces_)[static_cast<std::size_t>(number)];
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        const Step& step = *steps_[i];
        Progress& progress = progress_[i];
        const std::int64_t tasks = step.tasks();
        std::int64_t finished = 0;
        for (;;) {
            const std::int64_t task = progress.taken.fetch_add(1, std::memory_order_relaxed);
            if (task >= tasks) {
                break;
            }
            step.run(task, workspace);
            ++finished;
        }
        if (finished > 0 && progress.done.fetch_add(finished, std::memory_order_acq_rel) + finished == tasks) {
            progress.done.notify_all();
        } else {
            wait_until(progress.done, tasks);
        }
    }
}

}  // namespace wenable
