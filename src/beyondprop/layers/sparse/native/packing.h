// Memory of threads, shapes of tiles, and how tensors of any layout get into tiles and out of them.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "problem.h"
#include "vectors.h"

namespace INSTRUCTION_SET {

constexpr int64_t kCacheBudget = 1 << 20;  // bytes of a band's tiles: half of a usual second-level cache
constexpr size_t kHugePage = 1 << 21;

// ---------------------------------------------------------------------------------------------------------------- scratch memory

// Memory that a thread keeps from call to call: fresh pages would cost more than the work on small layers.
class Scratch {
 public:
  ~Scratch() { release(); }
  template <typename T>
  T *take(int64_t count) {
    size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64;
    if (bytes > kHugePage / 4) bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    if (bytes > size_) {
      release();
      data_ = std::aligned_alloc(bytes >= kHugePage ? kHugePage : 64, bytes);
      size_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
      scratch_bytes += static_cast<int64_t>(size_);
#ifdef MADV_HUGEPAGE
      if (bytes >= kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // the inner loops jump about in here
#endif
    }
    return static_cast<T *>(data_);
  }

 private:
  void release() {
    std::free(data_);
    scratch_bytes -= static_cast<int64_t>(size_);
    size_ = 0;
  }
  void *data_ = nullptr;
  size_t size_ = 0;
};

struct Workspace {
  Scratch input, output, offsets, weights;
};

inline Workspace &workspace() {
  thread_local Workspace own;
  return own;
}

// ------------------------------------------------------------------------------------------------------------------------- shapes

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
struct Geometry {
  static constexpr int kLanes = Vector<T>::kLanes;
  Shape s;
  Plan p;
  int64_t reach;   // input rows that one output row reads
  int64_t height;  // input rows of a band
  int64_t plane;   // elements of an input row of all channels

  Geometry(const Shape &shape, const Plan &plan) : s(shape), p(plan) {
    reach = (s.kernel_y - 1) * s.dilation_y + 1;
    height = (p.band - 1) * s.stride_y + reach;
    plane = s.channels * p.line;
  }
  int64_t bands() const { return ceil_div(s.out_height, p.band); }
  int64_t slack() const { return p.length + 64; }  // a run may read past its last pixel, into lanes that nobody uses
  int64_t offset(int64_t column) const {
    int64_t tap_x = column % s.kernel_x * s.dilation_x, rest = column / s.kernel_x;
    int64_t tap_y = rest % s.kernel_y * s.dilation_y, channel = rest / s.kernel_y;
    return tap_y * plane + channel * p.line + (tap_x % s.stride_x * p.phase_length + tap_x / s.stride_x) * p.lanes;
  }
  int64_t pixel(int64_t x) const {  // where input pixel x (padding counted) stands within a line
    return (x % s.stride_x * p.phase_length + x / s.stride_x) * p.lanes;
  }
};

// ------------------------------------------------------------------------------------------------------- packing and unpacking

template <typename S, typename T>
T widen(S value) {
  return static_cast<T>(value);
}
template <>
inline float widen<uint16_t, float>(uint16_t value) {
  uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
template <typename T, typename S>
S narrow(T value) {
  return static_cast<S>(value);
}
template <>
inline uint16_t narrow<float, uint16_t>(float value) {  // to the nearest, ties to even, NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Where the i-th of `count` things stands in a packed tile: at i * step, or at the places of a table.
struct Places {
  const int64_t *table;
  int64_t step;
  int64_t operator()(int64_t i) const { return table ? table[i] : i * step; }
};

// tile[place(i) + lane] = source[i * step + lane * batch], lanes that have no sample become zero.
template <typename T, typename S>
void pack(T *tile, Places place, int64_t count, const S *source, int64_t step, int64_t batch, int64_t samples, int64_t lanes) {
  constexpr int L = Vector<T>::kLanes;
  int64_t i = 0;
  if constexpr (sizeof(T) == 4 || sizeof(S) == sizeof(T)) {
    if (step == 1 && lanes % L == 0) {  // samples in rows: transpose blocks in registers
      for (int64_t lane = 0; lane < lanes; lane += L) {  // outside: few pages of the tensor at a time
        const int64_t here = std::clamp<int64_t>(samples - lane, 0, L);
        for (i = 0; i < count; i += L) {
          const int64_t some = std::min<int64_t>(L, count - i);
          const S *from = source + i + lane * batch;
          Vector<T> block[L];
          if (some == L && here == L)
            for (int j = 0; j < L; ++j) block[j] = Vector<T>::load(from + j * batch);
          else
            for (int64_t j = 0; j < L; ++j) block[j] = j < here ? Vector<T>::load_some(from + j * batch, some) : Vector<T>::zero();
          Vector<T>::transpose(block);
          for (int64_t j = 0; j < some; ++j) block[j].store(tile + place(i + j) + lane);
        }
      }
    } else if (sizeof(S) == sizeof(T) && batch == 1) {
      for (; i < count; ++i) {
        T *to = tile + place(i);
        std::memcpy(to, source + i * step, samples * sizeof(T));
        for (int64_t lane = samples; lane < lanes; ++lane) to[lane] = 0;
      }
    }
  }
  for (; i < count; ++i) {
    T *to = tile + place(i);
    for (int64_t lane = 0; lane < samples; ++lane) to[lane] = widen<S, T>(source[i * step + lane * batch]);
    for (int64_t lane = samples; lane < lanes; ++lane) to[lane] = 0;
  }
}

// target[i * step + lane * batch] = tile[place(i) + lane]
template <typename T, typename S>
void unpack(const T *tile, Places place, int64_t count, S *target, int64_t step, int64_t batch, int64_t samples, int64_t lanes) {
  constexpr int L = Vector<T>::kLanes;
  int64_t i = 0;
  if constexpr (sizeof(T) == 4 || sizeof(S) == sizeof(T)) {
    if (step == 1 && lanes % L == 0) {
      for (int64_t lane = 0; lane < samples; lane += L) {
        const int64_t here = std::min<int64_t>(samples - lane, L);
        for (i = 0; i < count; i += L) {
          const int64_t some = std::min<int64_t>(L, count - i);
          S *to = target + i + lane * batch;
          Vector<T> block[L];
          for (int64_t j = 0; j < L; ++j) block[j] = j < some ? Vector<T>::load(tile + place(i + j) + lane) : Vector<T>::zero();
          Vector<T>::transpose(block);
          if (some == L && here == L)
            for (int j = 0; j < L; ++j) block[j].store(to + j * batch);
          else
            for (int64_t j = 0; j < here; ++j) block[j].store_some(to + j * batch, some);
        }
      }
    } else if (sizeof(S) == sizeof(T) && batch == 1) {
      for (; i < count; ++i) std::memcpy(target + i * step, tile + place(i), samples * sizeof(T));
    }
  }
  for (; i < count; ++i)
    for (int64_t lane = 0; lane < samples; ++lane) target[i * step + lane * batch] = narrow<T, S>(tile[place(i) + lane]);
}

// Pack or unpack one image row of channels from c0 to c1; tile(channel, x) stands at channel * line + place(x).
template <typename T, typename S, bool In>
void move_row(T *tile, int64_t line, Places place, int64_t width, const View &view, S *row, int64_t c0, int64_t c1, int64_t samples,
              int64_t lanes) {
  auto one = [&](T *to, Places at, int64_t count, S *from, int64_t step) {
    if constexpr (In)
      pack<T, S>(to, at, count, from, step, view.batch, samples, lanes);
    else
      unpack<T, S>(to, at, count, from, step, view.batch, samples, lanes);
  };
  if (view.channel == 1 || width == 1) {  // walk along channels: linear layers and channels_last
    for (int64_t x = 0; x < width; ++x)
      one(tile + place(x) + c0 * line, Places{nullptr, line}, c1 - c0, row + x * view.x + c0 * view.channel, view.channel);
  } else {
    for (int64_t c = c0; c < c1; ++c) one(tile + c * line, place, width, row + c * view.channel, view.x);
  }
}

template <typename T, bool In>
void move(T *tile, int64_t line, Places place, int64_t width, const View &view, int64_t sample, int64_t y, int64_t c0, int64_t c1,
          int64_t samples, int64_t lanes) {
  const int64_t start = sample * view.batch + y * view.y;
  if (view.kind == kBFloat16) {
    if constexpr (sizeof(T) == 4)
      move_row<T, uint16_t, In>(tile, line, place, width, view, static_cast<uint16_t *>(view.data) + start, c0, c1, samples, lanes);
  } else {
    move_row<T, T, In>(tile, line, place, width, view, static_cast<T *>(view.data) + start, c0, c1, samples, lanes);
  }
}

// ------------------------------------------------------------------------------------------------------------------ one thread

// Input rows of a band, packed; rows that the band before had already are moved up rather than packed again.
template <typename T>
class InputBand {
 public:
  InputBand(const Geometry<T> &g, const View &view, T *data) : g_(g), view_(view), data_(data), places_(g.s.width) {
    for (int64_t x = 0; x < g.s.width; ++x) places_[x] = g.pixel(x + g.s.pad_x);
    std::memset(data_, 0, (g.height * g.plane + g.slack()) * sizeof(T));  // padding and lanes behind runs stay zero
  }
  void load(int64_t tile, int64_t samples, int64_t band, bool fresh) {
    const int64_t kept = fresh ? 0 : std::max<int64_t>(0, g_.reach - g_.s.stride_y);
    const int64_t moved = g_.p.band * g_.s.stride_y;
    if (kept) std::memmove(data_, data_ + moved * g_.plane, kept * g_.plane * sizeof(T));
    const int64_t top = band * moved - g_.s.pad_y;
    const int64_t from = std::max(kept, -top), to = std::min(g_.height, g_.s.height - top);
    for (int64_t y = kept; y < g_.height; ++y)
      if (y < from || y >= to) std::memset(data_ + y * g_.plane, 0, g_.plane * sizeof(T));
    // Rows of a channel one after another where they are neighbours in memory, else channel by channel within a row.
    const int64_t together = view_.channel == 1 || g_.s.width == 1 ? g_.s.channels : 1;
    for (int64_t c = 0; c < g_.s.channels; c += together)
      for (int64_t y = from; y < to; ++y)
        move<T, true>(data_ + y * g_.plane, g_.p.line, Places{places_.data(), 0}, g_.s.width, view_, tile * g_.p.lanes, top + y, c,
                      c + together, samples, g_.p.lanes);
  }

 private:
  const Geometry<T> &g_;
  const View &view_;
  T *data_;
  std::vector<int64_t> places_;
};

}  // namespace INSTRUCTION_SET
