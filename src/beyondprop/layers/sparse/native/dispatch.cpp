// The C interface: the passes of passes.h for the best instruction set that this processor has.
#include "problem.h"

#define DECLARE(SET)                                                                                                                 \
  namespace SET {                                                                                                                    \
  extern int run_forward(const Shape &, const Pattern *, const View &, const View &, const Weights &, const Options &);              \
  extern int run_weight(const Shape &, const Pattern &, const View &, const View &, const Weights &, const Options &);               \
  }
DECLARE(baseline)
#ifdef HAVE_X86
DECLARE(avx2)
DECLARE(avx512)
#endif

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

std::atomic<int64_t> scratch_bytes{0};

namespace {
int best() {
#ifdef HAVE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}
int level = best();
}  // namespace

// The instruction set in use: 2 is AVX-512, 1 AVX2 with fused multiply-add, 0 what every processor of this kind has.
EXPORT int beyondprop_sparse_level() { return level; }
EXPORT int beyondprop_sparse_limit(int wanted) { return level = wanted < best() ? wanted : best(); }

EXPORT int64_t beyondprop_sparse_scratch() { return scratch_bytes; }

EXPORT int beyondprop_sparse_version() { return kVersion; }

// Both return a Status: memory may be short, and a tile too large for offsets of 32 bits.
EXPORT int beyondprop_sparse_forward(const Shape *s, const Pattern *patterns, const View *x, const View *out, const Weights *w,
                                     const Options *options) {
#ifdef HAVE_X86
  if (level == 2) return avx512::run_forward(*s, patterns, *x, *out, *w, *options);
  if (level == 1) return avx2::run_forward(*s, patterns, *x, *out, *w, *options);
#endif
  return baseline::run_forward(*s, patterns, *x, *out, *w, *options);
}

EXPORT int beyondprop_sparse_weight(const Shape *s, const Pattern *pattern, const View *x, const View *d_out, const Weights *d,
                                    const Options *options) {
#ifdef HAVE_X86
  if (level == 2) return avx512::run_weight(*s, *pattern, *x, *d_out, *d, *options);
  if (level == 1) return avx2::run_weight(*s, *pattern, *x, *d_out, *d, *options);
#endif
  return baseline::run_weight(*s, *pattern, *x, *d_out, *d, *options);
}
