// The kernels, compiled once for each instruction set (see CMakeLists.txt), in the namespace INSTRUCTION_SET.
//
// Every layer is reduced to one form. Samples are gathered in tiles and stand innermost, so that the input of a tile is
// X[y][channel][phase][pixel][sample] and an output row of it is a run of `length` elements f = (pixel, sample). A surviving weight w of
// output channel r then reads the input at a distance `offset` which is the same for the whole run:
//
//     forward                     O[r][f] += w * X[offset + f]
//     gradient of the weight      dw      += sum over f of dO[r][f] * X[offset + f]
//
// The gradient of the input is the forward form again, over the transposed pattern, one convolution for each phase of the stride. A
// linear layer has one pixel. Strides along x put pixels of equal remainder ("phases") together when the input is packed; padding is
// written out as zeros there, and mixed layouts and bfloat16 are sorted out there as well, so the inner loops know nothing of them.
//
// Runs are cut in chunks that fit into registers, channels in granules whose part of X stays in the first-level cache while a block of
// rows passes over it, and output rows in bands whose input stays in the second-level cache. Threads share tiles and bands, and where
// these are too few, rows, balanced by surviving weights; they never wait for each other.
#pragma once
#ifdef _OPENMP
#include <omp.h>
#endif

#include "packing.h"

namespace INSTRUCTION_SET {

constexpr int64_t kAlone = 1 << 16;  // so few weights are gathered by one thread

// ------------------------------------------------------------------------------------------------------------------------ kernels

// The weights of a block of rows in one granule: for each row that has any there, the row and their number. Rows come by falling number, for a
// processor foresees the end of a loop that is as long as the last one.
struct Runs {
  const Run *first, *last;
  int64_t k;  // the first weight
  Runs(const Pattern &p, int64_t part) : first(p.run + p.run_begin[part]), last(p.run + p.run_begin[part + 1]), k(p.begin[part]) {}
};

// O[row][f] += sum of w X[offset + f] over the weights of each row, for one chunk of f.
template <typename T, int N>
void forward_chunk(const Runs &runs, const int32_t *offset, const T *w, const T *x, T *o, int64_t pitch) {
  using V = Vector<T>;
  int64_t k = runs.k;
  for (const Run *run = runs.first; run < runs.last; ++run) {
    const int64_t stop = k + run->count;
    T *out = o + run->row * pitch;
    V sum[N];
    for (int v = 0; v < N; ++v) sum[v] = V::load(out + v * V::kLanes);
    for (; k < stop; ++k) {
      const T *in = x + offset[k];
      const V weight = V::broadcast(w[k]);
      for (int v = 0; v < N; ++v) sum[v].add_product(weight, V::load(in + v * V::kLanes));
    }
    for (int v = 0; v < N; ++v) sum[v].store(out + v * V::kLanes);
  }
}

// dw += sum over f of dO[row][f] X[offset + f], four weights at a time.
template <typename T, int N>
void weight_chunk(const Runs &runs, const int32_t *offset, T *dw, const T *x, const T *d_out, int64_t pitch) {
  using V = Vector<T>;
  int64_t k = runs.k;
  for (const Run *run = runs.first; run < runs.last; ++run) {
    const int64_t stop = k + run->count;
    V d[N];
    for (int v = 0; v < N; ++v) d[v] = V::load(d_out + run->row * pitch + v * V::kLanes);
    auto product = [&](int64_t i) {
      V sum = V::zero();
      for (int v = 0; v < N; ++v) sum.add_product(d[v], V::load(x + offset[i] + v * V::kLanes));
      return sum;
    };
    for (; k + 4 <= stop; k += 4) V::add_sums(product(k), product(k + 1), product(k + 2), product(k + 3), dw + k);
    for (; k < stop; ++k) dw[k] += product(k).sum();
  }
}

template <typename T>
using ForwardChunk = void (*)(const Runs &, const int32_t *, const T *, const T *, T *, int64_t);
template <typename T>
using WeightChunk = void (*)(const Runs &, const int32_t *, T *, const T *, const T *, int64_t);

template <typename T>
ForwardChunk<T> forward_kernel(int64_t vectors) {
  static constexpr ForwardChunk<T> table[] = {forward_chunk<T, 1>, forward_chunk<T, 2>, forward_chunk<T, 3>, forward_chunk<T, 4>,
                                              forward_chunk<T, 5>, forward_chunk<T, 6>, forward_chunk<T, 7>, forward_chunk<T, 8>};
  return table[vectors - 1];
}

template <typename T>
WeightChunk<T> weight_kernel(int64_t vectors) {
  static constexpr WeightChunk<T> table[] = {weight_chunk<T, 1>, weight_chunk<T, 2>, weight_chunk<T, 3>, weight_chunk<T, 4>,
                                             weight_chunk<T, 5>, weight_chunk<T, 6>, weight_chunk<T, 7>, weight_chunk<T, 8>};
  return table[vectors - 1];
}

// ------------------------------------------------------------------------------------------------------------------ one thread

// What the two passes share: for every unit (a tile of samples and a band of output rows) its input is packed, and `work` is called for each
// output row and each block of channels [r0, r1) with the packed input of that row.
template <typename T, typename F>
void over_units(const Geometry<T> &g, const Pattern &pattern, const View &x, int64_t unit0, int64_t unit1, int64_t row0, int64_t row1, F work) {
  T *input = workspace().input.take<T>(g.height * g.plane + g.slack());
  InputBand<T> band_in(g, x, input);
  for (int64_t unit = unit0; unit < unit1; ++unit) {
    const int64_t tile = unit / g.bands(), band = unit % g.bands();
    const int64_t samples = std::min(g.p.lanes, g.s.batch - tile * g.p.lanes);
    band_in.load(tile, samples, band, unit == unit0 || band == 0);
    const int64_t bottom = std::min(g.s.out_height, (band + 1) * g.p.band);
    for (int64_t y = band * g.p.band; y < bottom; ++y)
      for (int64_t r0 = row0; r0 < row1; r0 += pattern.block)
        work(input + (y - band * g.p.band) * g.s.stride_y * g.plane, tile * g.p.lanes, samples, y, r0, std::min(row1, r0 + pattern.block));
  }
}

// A pattern as the inner loops want it: where each weight reads, and its value, part after part.
template <typename T>
struct Prepared {
  const Pattern &pattern;
  int32_t *offset;
  T *w;

  int64_t range(int64_t part, int64_t parts) const { return pattern.nonzeros * part / parts; }
  void place(const Geometry<T> &g, int64_t first, int64_t last) const {
    if (g.s.kernel_x == 1 && g.s.kernel_y == 1)
      for (int64_t k = first; k < last; ++k) offset[k] = static_cast<int32_t>(pattern.column[k] * g.p.line);
    else
      for (int64_t k = first; k < last; ++k) offset[k] = static_cast<int32_t>(g.offset(pattern.column[k]));
  }
  template <typename S>
  void gather(const S *weight, int64_t first, int64_t last) const {
    for (int64_t k = first; k < last; ++k) w[k] = widen<S, T>(weight[pattern.source[k]]);
  }
};

// The output tile of a block of rows. Each row holds `phases` runs; pixel x of the tensor is the ((x + shift) / phases)-th of the run
// (x + shift) % phases, counted from that of x = 0.
template <typename T>
struct Blocks {
  const Geometry<T> &g;
  std::vector<int64_t> places;
  int64_t pitch;
  T *data;

  Blocks(const Geometry<T> &geometry, int64_t rows, int64_t pixels, int64_t phases, int64_t shift)
      : g(geometry), places(pixels), pitch(phases * g.p.length) {
    data = workspace().output.template take<T>(rows * pitch + 64);
    std::memset(data, 0, (rows * pitch + 64) * sizeof(T));  // lanes behind a run's last pixel stay zero
    for (int64_t x = 0; x < pixels; ++x)
      places[x] = (x + shift) % phases * g.p.length + ((x + shift) / phases - shift / phases) * g.p.lanes;
  }
  T *origin(int64_t r0) const { return data - r0 * pitch; }
  template <bool In>
  void exchange(const View &view, int64_t sample, int64_t samples, int64_t y, int64_t r0, int64_t r1) const {
    move<T, In>(origin(r0), pitch, Places{places.data(), 0}, static_cast<int64_t>(places.size()), view, sample, y, r0, r1, samples,
                g.p.lanes);
  }
};

template <typename T>
void forward_part(const Geometry<T> &g, const std::vector<Prepared<T>> &phases, const View &x, const View &out, int64_t pixels, int64_t shift,
                  const T *bias, int64_t unit0, int64_t unit1, int64_t row0, int64_t row1) {
  const Plan &p = g.p;
  const Pattern &first = phases[0].pattern;
  const Blocks<T> block(g, first.block, pixels, static_cast<int64_t>(phases.size()), shift);
  over_units(g, first, x, unit0, unit1, row0, row1, [&](const T *in, int64_t sample, int64_t samples, int64_t y, int64_t r0, int64_t r1) {
    T *o = block.origin(r0);
    for (int64_t row = r0; row < r1; ++row) std::fill_n(o + row * block.pitch, block.pitch, bias ? bias[row] : T(0));
    for (const Prepared<T> &phase : phases) {
      for (int64_t granule = 0; granule < first.granules; ++granule) {
        const Runs runs(phase.pattern, r0 / first.block * first.granules + granule);
        for (int64_t f = 0; f < p.length; f += p.chunk)
          forward_kernel<T>(std::min(p.chunk, p.length - f) / g.kLanes)(runs, phase.offset, phase.w, in + f, o + f, block.pitch);
      }
      o += p.length;
    }
    block.template exchange<false>(out, sample, samples, y, r0, r1);
  });
}

template <typename T>
void weight_part(const Geometry<T> &g, const Prepared<T> &prepared, const View &x, const View &d_out, T *d_w, T *d_bias, int64_t unit0,
                 int64_t unit1, int64_t row0, int64_t row1) {
  const Plan &p = g.p;
  const Pattern &pattern = prepared.pattern;
  const Blocks<T> block(g, pattern.block, g.s.out_width, 1, 0);
  over_units(g, pattern, x, unit0, unit1, row0, row1, [&](const T *in, int64_t sample, int64_t samples, int64_t y, int64_t r0, int64_t r1) {
    const T *d = block.origin(r0);
    block.template exchange<true>(d_out, sample, samples, y, r0, r1);
    for (int64_t granule = 0; granule < pattern.granules; ++granule) {
      const Runs runs(pattern, r0 / pattern.block * pattern.granules + granule);
      for (int64_t f = 0; f < p.length; f += p.chunk)
        weight_kernel<T>(std::min(p.chunk, p.length - f) / g.kLanes)(runs, prepared.offset, d_w, in + f, d + f, p.length);
    }
    if (d_bias)
      for (int64_t row = r0; row < r1; ++row) {
        Vector<T> sum = Vector<T>::zero();
        for (int64_t f = 0; f < p.length; f += g.kLanes) sum.add(Vector<T>::load(d + row * p.length + f));
        d_bias[row] += sum.sum();
      }
  });
}

// ------------------------------------------------------------------------------------------------------------------- all threads

// Cut 0..count into `parts` ranges of about equal weight, `upto(i)` being the weight of all before i.
template <typename F>
int64_t cut(F upto, int64_t count, int64_t part, int64_t parts) {
  if (part <= 0) return 0;
  if (part >= parts) return count;
  const double target = static_cast<double>(upto(count)) * part / parts;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (upto(middle) < target)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

template <typename F>
void on_threads(int64_t threads, F work) {
#ifdef _OPENMP
  if (threads > 1) {
    std::atomic<bool> short_of_memory{false};  // no exception may leave a parallel region
#pragma omp parallel num_threads(threads)
    for (int64_t part = omp_get_thread_num(); part < threads; part += omp_get_num_threads()) try {
        work(part);
      } catch (const std::bad_alloc &) {
        short_of_memory = true;
      }
    if (short_of_memory) throw std::bad_alloc();
    return;
  }
#endif
  for (int64_t part = 0; part < threads; ++part) work(part);
}

template <typename T>
Plan plan(const Shape &s, int64_t chunk_vectors, int64_t lanes_wanted) {
  constexpr int64_t L = Vector<T>::kLanes;
  Plan p{};
  const bool single = s.out_height * s.out_width * s.height * s.width == 1;
  p.chunk = chunk_vectors * L;
  const int64_t widest = single ? p.chunk : lanes_wanted;
  if (s.batch >= widest)
    p.lanes = single ? ceil_div(ceil_div(s.batch, ceil_div(s.batch, widest)), L) * L : widest;
  else
    for (p.lanes = 1; p.lanes < s.batch; p.lanes *= 2) {
    }
  p.tiles = ceil_div(s.batch, p.lanes);
  p.length = ceil_div(s.out_width * p.lanes, L) * L;
  p.chunk = ceil_div(p.length / L, ceil_div(p.length, p.chunk)) * L;
  p.phase_length = ceil_div(std::max(s.width + s.pad_x, (s.out_width - 1) * s.stride_x + (s.kernel_x - 1) * s.dilation_x + 1), s.stride_x);
  p.line = s.stride_x * p.phase_length * p.lanes;
  const int64_t reach = (s.kernel_y - 1) * s.dilation_y + 1;
  auto bytes = [&](int64_t band) { return static_cast<int64_t>(sizeof(T)) * ((band - 1) * s.stride_y + reach) * s.channels * p.line; };
  for (p.band = s.out_height; p.band > 1 && bytes(p.band) > kCacheBudget;) p.band = ceil_div(p.band, 2);
  return p;
}

// How threads share the work: `across` ranges of units, and each of them `along` ranges of rows.
struct Sharing {
  int64_t units, across, along;
  template <typename T>
  Sharing(const Geometry<T> &g, int64_t blocks, int64_t threads)
      : units(g.p.tiles * g.bands()), across(std::min(threads, units)), along(std::clamp<int64_t>(threads / across, 1, blocks)) {}
  int64_t unit(int64_t a) const { return units * a / across; }
};

template <typename T>
void forward(const Geometry<T> &g, const Pattern *patterns, int64_t phases, const View &x, const View &out, int64_t pixels, int64_t shift,
             const Weights &weights, int64_t threads) {
  const int64_t blocks = ceil_div(g.s.rows, patterns[0].block), granules = patterns[0].granules;
  const Sharing share(g, blocks, threads);
  int64_t total = 0;
  for (int64_t i = 0; i < phases; ++i) total += patterns[i].nonzeros;
  int32_t *offset = workspace().offsets.take<int32_t>(total);
  T *w = workspace().weights.take<T>(total);
  std::vector<Prepared<T>> prepared;
  for (int64_t i = 0, at = 0; i < phases; at += patterns[i++].nonzeros) prepared.push_back({patterns[i], offset + at, w + at});
  const int64_t hands = total > kAlone ? threads : 1;
  on_threads(hands, [&](int64_t part) {
    for (const Prepared<T> &phase : prepared) {
      const int64_t first = phase.range(part, hands), last = phase.range(part + 1, hands);
      phase.place(g, first, last);
      if (weights.kind == kBFloat16)
        phase.gather(static_cast<const uint16_t *>(weights.weight), first, last);
      else
        phase.gather(static_cast<const T *>(weights.weight), first, last);
    }
  });
  auto upto = [&](int64_t i) {
    int64_t sum = 0;
    for (int64_t phase = 0; phase < phases; ++phase) sum += patterns[phase].begin[i * granules];
    return sum;
  };
  on_threads(share.across * share.along, [&](int64_t part) {
    const int64_t a = part / share.along, b = part % share.along;
    const int64_t row0 = cut(upto, blocks, b, share.along) * patterns[0].block;
    const int64_t row1 = std::min(g.s.rows, cut(upto, blocks, b + 1, share.along) * patterns[0].block);
    if (row0 >= row1) return;  // one block may hold more than a thread's share
    forward_part(g, prepared, x, out, pixels, shift, static_cast<const T *>(weights.bias), share.unit(a), share.unit(a + 1), row0, row1);
  });
}

// Writes d_w (nonzeros,), and d_bias (rows,) where it is not null.
template <typename T>
void weight(const Geometry<T> &g, const Pattern &pattern, const View &x, const View &d_out, T *d_w, T *d_bias, int64_t threads) {
  const int64_t blocks = ceil_div(g.s.rows, pattern.block);
  const Sharing share(g, blocks, threads);
  const Prepared<T> prepared{pattern, workspace().offsets.take<int32_t>(pattern.nonzeros), nullptr};
  const int64_t hands = pattern.nonzeros > kAlone ? threads : 1;
  on_threads(hands, [&](int64_t part) { prepared.place(g, prepared.range(part, hands), prepared.range(part + 1, hands)); });
  auto upto = [&](int64_t i) { return pattern.begin[i * pattern.granules]; };
  // Threads with the same rows have sums of their own, which are added up at the end.
  const int64_t own = pattern.nonzeros + g.s.rows;
  T *sums = workspace().weights.take<T>(share.across * own);
  on_threads(share.across * share.along, [&](int64_t part) {
    const int64_t a = part / share.along, b = part % share.along;
    const int64_t row0 = cut(upto, blocks, b, share.along) * pattern.block;
    const int64_t row1 = std::min(g.s.rows, cut(upto, blocks, b + 1, share.along) * pattern.block);
    if (row0 >= row1) return;
    T *mine = sums + a * own, *bias = mine + pattern.nonzeros;
    std::fill(mine + upto(row0 / pattern.block), mine + upto(ceil_div(row1, pattern.block)), T(0));
    std::fill(bias + row0, bias + row1, T(0));
    weight_part(g, prepared, x, d_out, mine, d_bias ? bias : nullptr, share.unit(a), share.unit(a + 1), row0, row1);
  });
  on_threads(hands, [&](int64_t part) {
    for (int64_t k = prepared.range(part, hands); k < prepared.range(part + 1, hands); ++k) {
      T sum = 0;
      for (int64_t a = 0; a < share.across; ++a) sum += sums[a * own + k];
      d_w[pattern.source[k]] = sum;
    }
  });
  if (!d_bias) return;
  for (int64_t row = 0; row < g.s.rows; ++row) {
    d_bias[row] = 0;
    for (int64_t a = 0; a < share.across; ++a) d_bias[row] += sums[a * own + pattern.nonzeros + row];
  }
}

// ---------------------------------------------------------------------------------------------------------------- entry points

template <typename T>
Geometry<T> geometry(const Shape &s, const Options &o) {
  Geometry<T> g(s, plan<T>(s, o.vectors, o.lanes));
  if (g.height * g.plane + g.slack() > INT32_MAX) throw std::length_error("offsets are of 32 bits");
  return g;
}

extern int run_forward(const Shape &s, const Pattern *patterns, const View &x, const View &out, const Weights &w, const Options &o) {
  try {
    if (w.kind == kFloat64)
      forward(geometry<double>(s, o), patterns, o.phases, x, out, o.pixels, o.shift, w, o.threads);
    else
      forward(geometry<float>(s, o), patterns, o.phases, x, out, o.pixels, o.shift, w, o.threads);
    return 0;
  } catch (const std::bad_alloc &) {
    return kShortOfMemory;
  } catch (const std::length_error &) {
    return kTooLarge;
  }
}

extern int run_weight(const Shape &s, const Pattern &pattern, const View &x, const View &d_out, const Weights &d, const Options &o) {
  try {
    if (d.kind == kFloat64)
      weight(geometry<double>(s, o), pattern, x, d_out, static_cast<double *>(d.weight), static_cast<double *>(d.bias), o.threads);
    else
      weight(geometry<float>(s, o), pattern, x, d_out, static_cast<float *>(d.weight), static_cast<float *>(d.bias), o.threads);
    return 0;
  } catch (const std::bad_alloc &) {
    return kShortOfMemory;
  } catch (const std::length_error &) {
    return kTooLarge;
  }
}

}  // namespace INSTRUCTION_SET
