// What Python hands to the kernels. Every extent and stride counts elements; library.py repeats these layouts field by field.
#pragma once
#include <atomic>
#include <cstdint>

extern std::atomic<int64_t> scratch_bytes;  // that all threads keep for tiles

constexpr int kVersion = 1;  // of these structures; library.py has the same number
enum Status : int { kDone = 0, kShortOfMemory = 1, kTooLarge = 2 };

enum Kind : int32_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2 };

// A tensor (batch, channels, height, width) of any strides. A matrix (batch, features) has height = width = 1.
struct View {
  void *data;
  int64_t batch, channel, y, x;  // strides
  int64_t kind;
};

// A convolution; a linear layer is one of a single tap over a single pixel. `pad_y` and `pad_x` stand before the first pixel; what
// stands behind the last one follows from the output's extent.
struct Shape {
  int64_t batch, channels, height, width;
  int64_t rows, out_height, out_width;  // rows: output channels
  int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
};

// The surviving weights. Rows are cut in blocks of `block` rows, channels in granules of `granule` channels; a block and a granule make
// a part. Weights stand part after part (granules of a block, then the next block), and within a part run after run.
struct Run {
  int32_t row, count;
};
struct Pattern {
  const int32_t *column;     // (nonzeros,) (channel * kernel_y + tap_y) * kernel_x + tap_x, channels counted over all groups
  const int32_t *source;     // (nonzeros,) where each weight stands in the parameter
  const Run *run;            // (runs,)
  const int64_t *run_begin;  // (parts + 1,) first run of each part
  const int64_t *begin;      // (parts + 1,) first weight of each part
  int64_t nonzeros, granules, granule, block;
};

// How the work is cut, chosen by plan() in passes.h.
struct Plan {
  int64_t lanes;         // samples that stand side by side in a tile
  int64_t tiles;         // tiles of samples
  int64_t chunk;         // elements of an output row that one kernel holds in registers
  int64_t length;        // elements of an output row: out_width * lanes, rounded up to a vector
  int64_t phase_length;  // pixels of an input row that fall into one phase of the horizontal stride
  int64_t line;          // elements of an input row of one channel: stride_x * phase_length * lanes
  int64_t band;          // output rows whose input is packed at once
};

// Parameters, or their gradients (then never bfloat16). `weight` has one value for each nonzero in the order of the parameter; `bias` one
// for each row, of the type of the sums, or is null.
struct Weights {
  void *weight, *bias;
  int64_t kind;
};

struct Options {
  int64_t threads;
  int64_t vectors;  // of a chunk, at most 8
  int64_t lanes;    // samples of a tile where an output row has several pixels
  // forward only: patterns that write the pixels x of an output row in turn, the first one those where (x + shift) % phases == 0
  int64_t phases, pixels, shift;
};
