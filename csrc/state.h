// What crosses from the checks to a kernel, and where things lie in the state kept for backward (fastlif/ops/state.py).
#pragma once

#include "options.h"

namespace fastlif {

constexpr int64_t kChunk = 16;  // steps between two stored membranes
constexpr int64_t kAlignment = 64;

struct Chunk {
  int64_t start, stop, row, border;  // border -1: v0
};

// Which steps carry gradient under truncation (cut, tail): with tail == cut all, else the last `tail` of each window.
struct Schedule {
  int64_t steps, cut, tail;

  FASTLIF_INLINE bool whole() const { return cut == tail || steps == 0; }
  FASTLIF_INLINE int64_t chunks_per_window() const { return (tail + kChunk - 1) / kChunk; }
  FASTLIF_INLINE int64_t last_tail() const {
    const int64_t length = steps - (steps - 1) / cut * cut;
    return tail < length ? tail : length;
  }
  FASTLIF_INLINE int64_t rows() const { return whole() ? steps : (steps - 1) / cut * tail + last_tail(); }
  FASTLIF_INLINE int64_t chunks() const {
    if (whole()) return (steps + kChunk - 1) / kChunk;
    return (steps - 1) / cut * chunks_per_window() + (last_tail() + kChunk - 1) / kChunk;
  }
  FASTLIF_INLINE int64_t borders() const { return whole() ? (steps ? chunks() - 1 : 0) : chunks(); }
  // The first step that carries gradient and the end of the window that t is in.
  FASTLIF_INLINE void window(int64_t t, int64_t& first, int64_t& stop) const {
    const int64_t start = whole() ? 0 : t / cut * cut;
    stop = whole() || start + cut > steps ? steps : start + cut;
    first = whole() || stop - tail < start ? start : stop - tail;
  }
  FASTLIF_INLINE Chunk chunk(int64_t i) const {
    const int64_t per = whole() ? chunks() : chunks_per_window(), w = whole() ? 0 : i / per,
                  offset = (i - w * per) * kChunk;
    int64_t first, stop;
    window(whole() ? 0 : w * cut, first, stop);
    const int64_t start = first + offset;
    return {start, start + kChunk < stop ? start + kChunk : stop, w * tail + offset, whole() ? i - 1 : i};
  }
  // The row of step t, or -1; and if a stored border lies before it, that border's row, else -1.
  FASTLIF_INLINE int64_t row(int64_t t, int64_t& border) const {
    int64_t first, stop;
    window(t, first, stop);
    border = -1;
    if (t < first) return -1;
    const int64_t w = whole() ? 0 : t / cut, i = (t - first) / kChunk;
    if ((t - first) % kChunk == 0) border = whole() ? i - 1 : w * chunks_per_window() + i;
    return w * tail + t - first;
  }
  FASTLIF_INLINE bool is_cut(int64_t t) const { return cut > 0 && (t + 1) % cut == 0; }
};

struct Layout {
  int64_t rows_at, row_bytes;

  // `normalized`: batch norm has all of x, so no rows of it are copied.
  static Layout of(const Schedule& schedule, Keep keep, int64_t neurons, int64_t compute_bytes, int64_t x_bytes,
                   bool normalized) {
    const int64_t plane = (neurons + 7) / 8;
    switch (keep) {
      case Keep::spikes: return {0, plane};
      case Keep::bits: return {0, 2 * plane};
      case Keep::code: return {0, neurons};
      case Keep::input:
        return {(schedule.borders() * neurons * compute_bytes / kAlignment + 1) * kAlignment,
                schedule.whole() || normalized ? 0 : neurons * x_bytes};
      default: return {0, 0};
    }
  }
};

// A number that neurons may share: neuron n has data[n / inner % size].
struct Param {
  const void* data;
  int64_t size, inner;
};

struct Problem {
  Options options;
  Schedule schedule;
  Layout layout;
  int64_t neurons;
  double values[8];    // decay, gain, bias, threshold, reset_amount, v_reset, surrogate scale, height
  Param params[3];     // decay, gain, threshold as tensors
  Param scale, shift;  // of the batch norm before: the input is scale * x + shift
  const void* x;       // [T, N], steps x_stride elements apart; in backward only for Keep::input, and then maybe null:
  int64_t x_stride;    // its steps are in the state's rows
  const void* v0;      // [N] or null
};

struct Forward : Problem {
  void* spikes;  // [T, N]
  void* v;       // [N]
  uint8_t* state;
  uint8_t* bits;  // [T, plane], the spikes again, or null
};

struct Backward : Problem {
  const void* gs;  // [T, N], steps gs_stride elements apart, or null
  int64_t gs_stride;
  const void* gv;  // [N] or null
  const uint8_t* state;
  const uint8_t* bits;        // [T, plane], the spikes where h is computed anew, or null
  Param mean, slope, offset;  // of batch norm: gx is scale * dL/dx - slope * (x - mean) - offset
  void* gx;                   // [T, N] or null; with batch norm and its sums (CPU alone) dL/dx itself
  int64_t gx_stride;          // N but for a CPU's own purposes
  void *gv0, *gdecay, *ggain, *gthreshold, *gshift, *gscale;  // [N] or null; the last two: dL/dx, times (x - mean)
  // On a CPU, all of batch norm's backward in one go: gx is the gradient of what was normalized, though slope and
  // offset follow from gshift's and gscale's sums over channels, which are written to sums [2, C].
  double* sums;         // or null
  const void* inverse;  // [C], 1 / standard deviation
  double count;         // values a channel
};

}  // namespace fastlif
