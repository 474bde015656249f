// Work shared among torch's own threads.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#ifdef __linux__
extern "C" {  // of torch's OpenMP library: GNU's, LLVM's and Intel's have these names
void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num();
}
#endif

namespace {

// f(i) for 0 ... count - 1, shared among torch's threads: each has a part, the same one in call after call, as what it has
// written may still be in its cache, and helps others when it is done, as cores may differ in speed.
//
// at::parallel_for is compiled here, not in torch: clang would make calls to LLVM's OpenMP library of it, where torch
// brings GNU's, and a second one must not be loaded.
template <class F>
void share(int64_t count, const F& f) {
  const int64_t threads = std::min<int64_t>(count, at::get_num_threads());
  if (threads < 2 || at::in_parallel_region()) {
    for (int64_t i = 0; i < count; i++) f(i);
    return;
  }
  std::vector<std::atomic<int64_t>> next(threads);
  for (int64_t part = 0; part < threads; part++) next[part] = count * part / threads;
  const auto work = [&](int64_t thread) {
    for (int64_t turn = 0; turn < threads; turn++) {
      const int64_t part = (thread + turn) % threads, end = count * (part + 1) / threads;
      for (int64_t i; (i = next[part]++) < end;) f(i);
    }
  };
#ifdef __linux__
  struct Shared {
    const decltype(work)& f;
    std::exception_ptr error;
  } shared{work, nullptr};
  const auto call = [](void* data) {
    Shared& s = *static_cast<Shared*>(data);
    try {
      s.f(omp_get_thread_num());
    } catch (...) {
      static std::mutex one;
      const std::lock_guard<std::mutex> lock(one);
      s.error = std::current_exception();
    }
  };
  GOMP_parallel(call, &shared, threads, 0);
  if (shared.error) std::rethrow_exception(shared.error);
#else
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t) { work(begin); });
#endif
}

}  // namespace
