// Vectors of the widest registers that the compiler was told of, in float and double, on GCC's and Clang's vector extensions: the same text
// is AVX-512, AVX2, NEON or SSE.
#pragma once
#include <cstdint>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Raw;
template <>
struct Raw<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float loose __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int index __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Raw<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double loose __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef long long index __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
struct Vector {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  using R = typename Raw<T>::type;
  using Loose = typename Raw<T>::loose;
  using Index = typename Raw<T>::index;
  R v;

  static Vector zero() { return {R{}}; }
  static Vector broadcast(T value) { return {value - R{}}; }
  static Vector load(const T *from) { return {*reinterpret_cast<const Loose *>(from)}; }
  void store(T *to) const { *reinterpret_cast<Loose *>(to) = v; }
  static Vector load_some(const T *from, int64_t count) {  // lanes from `count` on become zero, and their memory is not touched
#if defined(__AVX512F__)
    const unsigned mask = (1u << count) - 1;
    if constexpr (sizeof(T) == 4)
      return {(R)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from)};
    else
      return {(R)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from)};
#else
    T all[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) all[i] = from[i];
    return load(all);
#endif
  }
  void store_some(T *to, int64_t count) const {
#if defined(__AVX512F__)
    const unsigned mask = (1u << count) - 1;
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), (__m512)v);
    else
      _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask), (__m512d)v);
#else
    for (int64_t i = 0; i < count; ++i) to[i] = v[i];
#endif
  }
  void add(Vector other) { v += other.v; }
  void add_product(Vector a, Vector b) { v += a.v * b.v; }  // contracted to a fused multiply-add

  template <int Distance>
  static R shifted(R a) {  // lane i gets lane i ^ Distance
    Index at;
    for (int i = 0; i < kLanes; ++i) at[i] = i ^ Distance;
    return __builtin_shuffle(a, at);
  }
  template <int Distance>
  static R folded(R a) {
    if constexpr (Distance == 0)
      return a;
    else
      return folded<Distance / 2>(a + shifted<Distance>(a));
  }
  T sum() const { return folded<kLanes / 2>(v)[0]; }

  // Lanes where i & Distance is 0 from a, the others from b moved by Distance: one half of a butterfly.
  template <int Distance>
  static R merged(R a, R b) {
    Index low, high;
    for (int i = 0; i < kLanes; ++i) {
      low[i] = i & Distance ? kLanes + (i ^ Distance) : i;
      high[i] = i & Distance ? kLanes + i : i ^ Distance;
    }
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  }
  // to[0..3] += the sums of four vectors.
  static void add_sums(Vector a, Vector b, Vector c, Vector d, T *to) {
    if constexpr (kLanes >= 4) {
      const R pairs = merged<1>(a.v, b.v), others = merged<1>(c.v, d.v);
      R all = merged<2>(pairs, others);
      if constexpr (kLanes >= 16) all += shifted<8>(all);
      if constexpr (kLanes >= 8) all += shifted<4>(all);
      typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
      *reinterpret_cast<Four *>(to) += *reinterpret_cast<const Four *>(&all);
    } else {
      to[0] += a.sum();
      to[1] += b.sum();
      to[2] += c.sum();
      to[3] += d.sum();
    }
  }

  template <int Distance>
  static void exchange(Vector *block) {  // swap the off-diagonal quarters of all 2 Distance x 2 Distance blocks
    if constexpr (Distance < kLanes) {
      Index low, high;
      for (int i = 0; i < kLanes; ++i) {
        low[i] = i & Distance ? kLanes + (i ^ Distance) : i;
        high[i] = i & Distance ? kLanes + i : i ^ Distance;
      }
      for (int j = 0; j < kLanes; ++j)
        if (!(j & Distance)) {
          const R a = block[j].v, b = block[j + Distance].v;
          block[j].v = __builtin_shuffle(a, b, low);
          block[j + Distance].v = __builtin_shuffle(a, b, high);
        }
      exchange<2 * Distance>(block);
    }
  }
  static void transpose(Vector *block) { exchange<1>(block); }
};

}  // namespace INSTRUCTION_SET
