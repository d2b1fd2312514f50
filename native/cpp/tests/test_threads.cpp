// Calls on several threads, to be run with the thread sanitizer: every piece of a step is done once, after
// all pieces of the step before it, and calls that follow each other at once do not meet.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "../threads.h"

using namespace wenable;

namespace {

// Reads all that the step before wrote, and writes one more to its own place: a piece that is done twice, left
// out, or begun too early gives another sum. Nothing here is atomic, so a wrong order is a race as well.
class AddStep : public Step {
public:
    AddStep(const std::vector<std::int64_t>* before, std::vector<std::int64_t>* own) : before_(before), own_(own) {}

    std::int64_t tasks() const override { return static_cast<std::int64_t>(own_->size()); }
    std::int64_t scratch() const override { return 0; }
    std::int64_t bytes() const override { return 0; }

    void run(std::int64_t task, const Workspace&) const override {
        std::int64_t most = 0;
        if (before_ != nullptr) {
            for (const std::int64_t each : *before_) {
                most = each > most ? each : most;
            }
        }
        std::int64_t& place = (*own_)[static_cast<std::size_t>(task)];
        place = before_ == nullptr ? place + 1 : most;
    }

private:
    const std::vector<std::int64_t>* before_;
    std::vector<std::int64_t>* own_;
};

bool goes_right(std::int32_t count, std::int64_t calls) {
    Threads threads(count);
    std::vector<std::vector<std::int64_t>> values;
    for (std::size_t i = 0; i < 12; ++i) {
        values.emplace_back(1 + i * 5 % 7, 0);
    }
    std::vector<std::unique_ptr<Step>> steps;
    for (std::size_t i = 0; i < values.size(); ++i) {
        steps.push_back(std::make_unique<AddStep>(i == 0 ? nullptr : &values[i - 1], &values[i]));
    }
    const std::vector<Workspace> workspaces(static_cast<std::size_t>(count), Workspace{nullptr, nullptr, nullptr, nullptr});
    for (std::int64_t call = 1; call <= calls; ++call) {
        threads.run(steps, workspaces);
        for (const auto& each : values) {
            for (const std::int64_t value : each) {
                if (value != call) {
                    std::printf("%d threads, call %lld: %lld\n", count, static_cast<long long>(call),
                                static_cast<long long>(value));
                    return false;
                }
            }
        }
    }
    return true;
}

}  // namespace

int main() {
    for (const std::int32_t count : {1, 2, 3, 8}) {
        if (!goes_right(count, 300)) {
            return 1;
        }
        std::printf("%d threads: 300 calls\n", count);
    }
    return 0;
}
