// A weight times many rows, at most 64: out = rows (b, k) times weight (n, k) transposed, or partial sums of it.
//
// A block takes 80 outputs and a part of the columns. One thread asks the copy engine for the weight and the rows, 64
// columns at a time, which come into two rings in shared memory; four warps multiply on the tensor cores, the rows on the
// side of 64, the weight on the side of 80. The weight's first chunks are on their way before the rows are there, so that
// its ring is the longer one. Set from outside:
//   SPLITS parts of the columns   PART columns of each, a multiple of 64   STAGES chunks of the weight in its ring
//   WAITING chunks of the rows in theirs, at most as many
//   PARTIAL: sums of each part in float32, else numbers
//   CONV: the first half of what comes out goes through the convolution and silu. A block then takes 40 outputs of each
//   half, so that all have as much to convolve.

#define CHUNK 64
#define ROWS 64
#define TILE 80
#define LINE 128  // bytes of a row in a chunk
#define CHUNK_BYTES (TILE * LINE)
#define ROWS_BYTES (ROWS * LINE)
#define CONSUMERS 128
#define PAIRS (TILE / 4)  // of neighbouring outputs that a thread holds
#define CHANNELS (TILE / 2)  // that a block convolves
#define TAP_BYTES (CHANNELS * (TAPS - 1) * 2)  // of a row's past inputs

struct alignas(64) ManyProductArguments {
  Map weight, x;
  void* out;                  // (b, n) numbers at a pitch, or (splits, b, n) float32
  const number* conv_before;  // (b, n/2, k-1), with CONV
  number* conv_after;
  const number* conv;       // (n/2, k)
  const number* conv_bias;  // (n/2,) or null
  int b, n, k, pitch;
};

// The past inputs of a block's channels, (64, 40, k-1), their weights and their bias, in shared memory.
struct Past {
  char *taps, *weights, *bias;
  __device__ explicit Past(char* at) : taps(at), weights(at + ROWS * TAP_BYTES), bias(weights + CHANNELS * TAPS * 2) {}
};

// In pieces of 16 bytes. `inside`: how many of the channels there are.
__device__ __forceinline__ void fetch_past(const ManyProductArguments& a, const Past& past, int channel, int inside) {
  const int e = a.n / 2, thread = threadIdx.x;
  for (int i = thread; i < ROWS * (TAP_BYTES / 16); i += CONSUMERS) {
    const int row = i / (TAP_BYTES / 16), byte = i % (TAP_BYTES / 16) * 16;
    const char* from = (const char*)(a.conv_before + ((i64)row * e + channel) * (TAPS - 1)) + byte;
    if (row < a.b && byte < inside * (TAPS - 1) * 2) copy_async(past.taps + i * 16, from, true);
  }
  if (thread < CHANNELS / 2 && thread * 2 < inside)
    copy_async(past.weights + thread * 16, a.conv + (i64)(channel + thread * 2) * TAPS, true);
  if (a.conv_bias && thread < CHANNELS / 8 && thread * 8 < inside)
    copy_async(past.bias + thread * 16, a.conv_bias + channel + thread * 8, true);
}

// What the past adds to the convolution of two neighbouring channels. The past moves on by one, and leaves room for the
// newest inputs.
__device__ __forceinline__ float2 look_back(const Past& past, bool has_bias, int row, int channel) {
  word* taps = (word*)(past.taps + row * TAP_BYTES + channel * (TAPS - 1) * 2);
  const uint4 w = *(const uint4*)(past.weights + channel * TAPS * 2);
  const word p = taps[0], q = taps[1], r = taps[2], bias = has_bias ? *(const word*)(past.bias + channel * 2) : 0;
  float first = fmaf(low(p), low(w.x), low(bias)), second = fmaf(high(q), low(w.z), high(bias));
  first = fmaf(high(p), high(w.x), first), second = fmaf(low(r), high(w.z), second);
  taps[0] = p >> 16 | q << 16, taps[1] = r << 16, taps[2] = r >> 16;
  return make_float2(fmaf(low(q), low(w.y), first), fmaf(high(r), low(w.w), second));
}

// The convolution of two neighbouring channels, of which x holds the newest inputs, and silu.
__device__ __forceinline__ word convolve(const Past& past, float2 before, int row, int channel, word x) {
  number* taps = (number*)(past.taps + row * TAP_BYTES) + channel * (TAPS - 1);
  const number* weights = (const number*)past.weights + channel * TAPS;
  taps[TAPS - 2] = (number)(x & 0xffffu), taps[2 * TAPS - 3] = (number)(x >> 16);
  return bfloats(silu(fmaf(low(x), wide(weights[TAPS - 1]), before.x)), silu(fmaf(high(x), wide(weights[2 * TAPS - 1]), before.y)));
}

__device__ __forceinline__ void keep_past(const ManyProductArguments& a, const Past& past, int channel, int inside) {
  for (int i = threadIdx.x; i < ROWS * (TAP_BYTES / 16); i += CONSUMERS + 32) {
    const int row = i / (TAP_BYTES / 16), byte = i % (TAP_BYTES / 16) * 16;
    char* to = (char*)(a.conv_after + ((i64)row * (a.n / 2) + channel) * (TAPS - 1)) + byte;
    if (row < a.b && byte < inside * (TAPS - 1) * 2) *(uint4*)to = *(const uint4*)(past.taps + i * 16);
  }
}

__device__ __forceinline__ void ask(const ManyProductArguments& a, char* slot, barrier* full, int tile, int column) {
  expect(full, CHUNK_BYTES);
  if (CONV) {
    fetch_once(slot, &a.weight, column, tile * CHANNELS, full);
    fetch_once(slot + CHUNK_BYTES / 2, &a.weight, column, a.n / 2 + tile * CHANNELS, full);
  } else {
    fetch_once(slot, &a.weight, column, tile * TILE, full);
  }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32, CONV ? 4 : 5) many_product(const __grid_constant__ ManyProductArguments a) {
  launch_dependents();
  const int tile = blockIdx.x / SPLITS, split = blockIdx.x % SPLITS;
  const int start = split * PART, left = a.k - start;
  const int chunks = ((left < PART ? left : PART) + CHUNK - 1) / CHUNK;
  char* ring = whole_lines(memory);
  char* rows = ring + STAGES * CHUNK_BYTES;
  barrier *full = (barrier*)(rows + WAITING * ROWS_BYTES), *rows_full = full + STAGES, *empty = rows_full + WAITING;
  const Past past((char*)(empty + WAITING + STAGES % 2));
  const int e = a.n / 2, channel = tile * CHANNELS, inside = e - channel < CHANNELS ? e - channel : CHANNELS;
  if (threadIdx.x == CONSUMERS) {
    for (int i = 0; i < STAGES; i++) begin(full + i, 1);
    for (int i = 0; i < WAITING; i++) begin(rows_full + i, 1), begin(empty + i, CONSUMERS / 32);
    begun();
  }
  __syncthreads();
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  float2 before[PAIRS / 2];
  float total[TILE / 2] = {};
  if (threadIdx.x == CONSUMERS) {
    for (int i = 0; i < STAGES && i < chunks; i++) ask(a, ring + i * CHUNK_BYTES, full + i, tile, start + i * CHUNK);
    wait_for_kernels();
    for (int i = 0; i < chunks; i++) {
      const int place = i % WAITING, next = i - WAITING + STAGES;
      if (i >= WAITING) wait_for(empty + place, (i / WAITING - 1) % 2);
      expect(rows_full + place, ROWS_BYTES);
      fetch_box(rows + place * ROWS_BYTES, &a.x, start + i * CHUNK, 0, rows_full + place);
      // The chunk that was multiplied last leaves its place.
      if (i >= WAITING && next < chunks)
        ask(a, ring + next % STAGES * CHUNK_BYTES, full + next % STAGES, tile, start + next * CHUNK);
    }
  } else if (threadIdx.x < CONSUMERS) {
    if (CONV) {
      fetch_past(a, past, channel, inside);
      wait_for_copies();
      meet_consumers();
#pragma unroll
      for (int i = 0; i < PAIRS / 2; i++) before[i] = look_back(past, a.conv_bias, row + i % 2 * 8, column + i / 2 * 8);
    }
    for (int i = 0; i < chunks; i++) {
      wait_for(full + i % STAGES, i / STAGES % 2);
      wait_for(rows_full + i % WAITING, i / WAITING % 2);
      multiply_chunk(total, rows + i % WAITING * ROWS_BYTES, ring + i % STAGES * CHUNK_BYTES);
      release(empty + i % WAITING);
    }
  }
  if (threadIdx.x < CONSUMERS) {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      const int r = row + i % 2 * 8, of_tile = column + i / 2 * 8;
      const bool convolved = CONV && i < PAIRS / 2;
      const int output = CONV ? channel + (convolved ? of_tile : e + of_tile - CHANNELS) : tile * TILE + of_tile;
      if (r >= a.b || output >= (convolved ? e : a.n)) continue;
      if (PARTIAL) {
        *(float2*)((float*)a.out + ((i64)split * a.b + r) * a.n + output) = make_float2(total[i * 2], total[i * 2 + 1]);
        continue;
      }
      word pair = bfloats(total[i * 2], total[i * 2 + 1]);
      if (convolved) pair = convolve(past, before[i < PAIRS / 2 ? i : 0], r, of_tile, pair);
      *(word*)((number*)a.out + (i64)r * a.pitch + output) = pair;
    }
  }
  if (CONV) {
    __syncthreads();
    keep_past(a, past, channel, inside);
  }
}
