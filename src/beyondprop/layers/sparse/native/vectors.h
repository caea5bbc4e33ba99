// Vectors of the widest registers that the compiler was told of, in float and double, on GCC's and Clang's vector extensions: the same text
// is AVX-512, AVX2, NEON or SSE.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
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
  typedef uint32_t bits __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t half __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint16_t loose_half __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
};
template <>
struct Raw<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double loose __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef long long index __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t bits __attribute__((vector_size(kVectorBytes)));  // these three are never used
  typedef uint16_t half __attribute__((vector_size(kVectorBytes / 4)));
  typedef uint16_t loose_half __attribute__((vector_size(kVectorBytes / 4), aligned(2), may_alias));
};

template <typename T>
struct Vector {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  using R = typename Raw<T>::type;
  using Loose = typename Raw<T>::loose;
  using Index = typename Raw<T>::index;
  using Bits = typename Raw<T>::bits;
  using Half = typename Raw<T>::half;
  using LooseHalf = typename Raw<T>::loose_half;
  R v;

  static Vector zero() { return {R{}}; }
  static Vector broadcast(T value) { return {value - R{}}; }
  static Vector load(const T *from) { return {*reinterpret_cast<const Loose *>(from)}; }
  void store(T *to) const { *reinterpret_cast<Loose *>(to) = v; }
  // From and to bfloat16, which is the upper half of a float: to the nearest, ties to even, and NaN stays NaN.
  static Vector load(const uint16_t *from) {
    Bits bits = __builtin_convertvector(*reinterpret_cast<const LooseHalf *>(from), Bits) << 16;
    return {(R)bits};
  }
  void store(uint16_t *to) const {
    const Bits bits = (Bits)v, nan = (Bits)(v != v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
    *reinterpret_cast<LooseHalf *>(to) = __builtin_convertvector((rounded & ~nan) | (quiet & nan), Half);
  }
  static Vector load_some(const uint16_t *from, int64_t count) {
    uint16_t all[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) all[i] = from[i];
    return load(all);
  }
  void store_some(uint16_t *to, int64_t count) const {
    uint16_t all[kLanes];
    store(all);
    for (int64_t i = 0; i < count; ++i) to[i] = all[i];
  }
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

  // Lane i of the result is lane at(i) of a and b, one behind the other.
  template <typename At>
  static R shuffled(R a, R b, At at) {
    return shuffled(a, b, at, std::make_index_sequence<kLanes>());
  }
  template <typename At, size_t... I>
  static R shuffled(R a, R b, At at, std::index_sequence<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, at(I)...);
#else
    return __builtin_shuffle(a, b, Index{at(I)...});
#endif
  }
  template <int Distance>
  static R shifted(R a) {  // lane i gets lane i ^ Distance
    return shuffled(a, a, [](auto i) constexpr { return static_cast<int>(i) ^ Distance; });
  }
  // Lanes where i & Distance is 0 from a, the others from b moved by Distance; and the other way.
  template <int Distance>
  static R lower(R a, R b) {
    return shuffled(a, b, [](auto i) constexpr {
      const int lane = static_cast<int>(i);
      return lane & Distance ? kLanes + (lane ^ Distance) : lane;
    });
  }
  template <int Distance>
  static R upper(R a, R b) {
    return shuffled(a, b, [](auto i) constexpr {
      const int lane = static_cast<int>(i);
      return lane & Distance ? kLanes + lane : lane ^ Distance;
    });
  }
  template <int Distance>
  static R folded(R a) {
    if constexpr (Distance == 0)
      return a;
    else
      return folded<Distance / 2>(a + shifted<Distance>(a));
  }
  T sum() const { return folded<kLanes / 2>(v)[0]; }

  template <int Distance>
  static R merged(R a, R b) {
    return lower<Distance>(a, b) + upper<Distance>(a, b);
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
      for (int j = 0; j < kLanes; ++j)
        if (!(j & Distance)) {
          const R a = block[j].v, b = block[j + Distance].v;
          block[j].v = lower<Distance>(a, b);
          block[j + Distance].v = upper<Distance>(a, b);
        }
      exchange<2 * Distance>(block);
    }
  }
  static void transpose(Vector *block) { exchange<1>(block); }
};

}  // namespace INSTRUCTION_SET
