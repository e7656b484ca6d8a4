// Work on libtorch's own team of threads.
#pragma once

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>

namespace {

// The team is that of the OpenMP library that libtorch brings, whatever compiler builds this file.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

inline Team team() {
  static const auto found = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

inline long workers(long parts) {
  return team() == nullptr ? 1 : std::max(1L, std::min<long>(at::get_num_threads(), parts));
}

// Runs `f(part, worker)` for every part; a worker takes the next part that is left.
template <typename F>
void in_parts(long parts, const F& f) {
  struct Shared {
    const F& f;
    const long parts;
    std::atomic<long> next{0};
    std::atomic<long> worker{0};
  } shared{f, parts};
  const auto run = [](void* at) {
    auto& shared = *static_cast<Shared*>(at);
    const long worker = shared.worker++;
    for (long part = shared.next++; part < shared.parts; part = shared.next++) {
      shared.f(part, worker);
    }
  };
  if (workers(parts) == 1) {
    run(&shared);
  } else {
    team()(run, &shared, static_cast<unsigned>(workers(parts)), 0);
  }
}

}  // namespace
