#include "dispatch.h"

#include <stdexcept>

namespace wenable {

#if defined(__x86_64__)
namespace x86_64_v2 { extern const Kernels kernels; }
namespace x86_64_v3 { extern const Kernels kernels; }
namespace x86_64_v4 { extern const Kernels kernels; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels kernels; }
#else
namespace generic { extern const Kernels kernels; }
#endif

namespace {

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // Part by part: the names of whole levels are not known to every compiler.
    const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4) {
        found.push_back(&x86_64_v4::kernels);
    }
    if (v3) {
        found.push_back(&x86_64_v3::kernels);
    }
    if (v2) {
        found.push_back(&x86_64_v2::kernels);
    }
#elif defined(__aarch64__)
    found.push_back(&neon::kernels);
#else
    found.push_back(&generic::kernels);
#endif
    return found;
}

}  // namespace

std::vector<std::string> usable_variants() {
    std::vector<std::string> names;
    for (const Kernels* each : usable()) {
        names.emplace_back(each->name);
    }
    return names;
}

const Kernels& kernels_named(const std::string& name) {
    std::string allowed;
    for (const Kernels* each : usable()) {
        if (name.empty() || name == each->name) {
            return *each;
        }
        allowed += (allowed.empty() ? "" : ", ") + std::string(each->name);
    }
    throw std::invalid_argument("`variant` (='" + name + "') does not run on this processor; allowed: " +
                                (allowed.empty() ? "none" : allowed));
}

}  // namespace wenable
