// A weight times a few rows. The weight is a stream of chunks that the copy engine puts into a ring in shared memory,
// begun before the kernel that makes the rows is done.
//
// A chunk is whole rows of the weight, a copy each. A warp multiplies the same columns of every chunk: a step is 32 of
// them, and lane 4 g + t takes eight of row g of the chunk. Set from outside:
//   BATCH rows (at most 8)   COLUMNS of the weight   TILE rows of it in a chunk (at most 8)   STAGES chunks in the ring
//   MOST outputs that a block has   BLOCKS of the device
//   NORM: the rows are a residual times a norm's weight, by whose squares the sums are scaled
//   ADD: what comes out is added to the residual, and made into the rows of the next product
//   CONV: the first half of what comes out goes through the convolution and silu
//   HELD: the rows stay in registers, else in shared memory   AHEAD steps whose weights are asked for at once
//   LEAST blocks for which a multiprocessor shall have registers

#define STEPS (COLUMNS / THREADS)
// Of rows in shared memory, first of the weight: two that are read together lie on different banks.
#define PITCH (COLUMNS * 2 + 64)
#define X_PITCH (COLUMNS * 2 + (BATCH > 2 ? 64 : 0))
#define SLOT_BYTES (TILE * PITCH)
#define GIVER (THREADS - 32)  // where the warp begins that asks for chunks
#define CHANNEL_ROUNDS (CONV ? (BATCH * MOST + THREADS - 1) / THREADS : 1)
#define ADD_ROUNDS (ADD ? (BATCH * MOST + THREADS - 1) / THREADS : 1)
#define BLOCK_ROUNDS ((BLOCKS + 31) / 32)
#define ROW_ROUNDS ((BATCH * (COLUMNS / 8) + THREADS - 1) / THREADS)

struct ProductArguments {
  const number* weight;       // (rows, COLUMNS)
  const number* x;            // (b, COLUMNS)
  const float* squares;       // (b, BLOCKS), with NORM: the residual's, in sums
  number* out;                // (b, rows), unless ADD
  float* residual;            // (b, rows), with ADD
  const number* norm;         // (rows,), with ADD: the weight of the norm that comes next
  number* next;               // (b, rows)
  float* next_squares;        // (b, BLOCKS)
  const number* conv_before;  // (b, e, k-1), with CONV, rows = 2e
  number* conv_after;
  const number* conv;         // (e, k)
  const number* conv_bias;    // (e,) or null
  Coming coming;              // asked for with the first chunk
  i64 rows;
  i64 near;                   // chunks behind the ring in the second-level cache
  float eps;
};

// The tiles of the weight that a block takes: neighbours, or with CONV two runs of them, one in each half, so that every
// block has as much to convolve; the half that is not convolved first.
struct Tiles {
  int plain, plain_count, first, count, both;
  __device__ explicit Tiles(int rows) {
    int all = (rows + TILE - 1) / TILE, half = CONV ? all / 2 : all, mirror = num_blocks() - 1 - blockIdx.x;
    first = share(half, blockIdx.x), count = share(half, blockIdx.x + 1) - first;
    plain = half + share(half, mirror), plain_count = CONV ? half + share(half, mirror + 1) - plain : 0;
    both = plain_count + count;
  }
  __device__ int at(int i) const { return i < plain_count ? plain + i : first + i - plain_count; }
  __device__ int bytes(int i, int rows) const {
    int left = rows - at(i) * TILE;
    return (left < TILE ? left : TILE) * COLUMNS * 2;
  }
  // Without CONV.
  __device__ int outputs(int rows) const {
    int last = (first + count) * TILE;
    return (last < rows ? last : rows) - first * TILE;
  }
};

// Everything that the threads of a block share.
struct Shared {
  char *ring, *rows;
  barrier* full;    // one a chunk in the ring
  float *sums, *scales;  // (2, warps, 8, 8), (8,): what a norm multiplies a row by
  float* before;    // (b, outputs): the residual, or what the inputs before the newest add to the convolution
  float* newest;    // (outputs,): its weights of the newest, or those of the next norm
  __device__ Shared() {
    ring = (char*)memory;
    full = (barrier*)(ring + STAGES * SLOT_BYTES);
    sums = (float*)(full + STAGES + STAGES % 2);
    scales = sums + 2 * WARPS * 64;
    rows = (char*)(scales + 8);
    before = (float*)(rows + (HELD ? 0 : BATCH * X_PITCH));
    newest = before + BATCH * MOST;
  }
};

// By the lanes of a warp, a row each. What is left of a slot gives what nobody keeps.
__device__ __forceinline__ void ask(const ProductArguments& a, const Shared& shared, const Tiles& tiles, int i) {
  if (i >= tiles.both) return;
  const int place = i % STAGES, lane = threadIdx.x % 32, row = tiles.at(i) * TILE + lane;
  if (lane == 0) expect(shared.full + place, tiles.bytes(i, (int)a.rows));
  if (lane < TILE && row < (int)a.rows)
    fetch(shared.ring + place * SLOT_BYTES + lane * PITCH, a.weight + (i64)row * COLUMNS, COLUMNS * 2, shared.full + place);
}
__device__ __forceinline__ void ask_near(const ProductArguments& a, const Tiles& tiles, int i) {
  if (i >= tiles.both || threadIdx.x % 32) return;
  fetch_near(a.weight + (i64)tiles.at(i) * TILE * COLUMNS, tiles.bytes(i, (int)a.rows));
}

// What the convolution of this block's channels knows before the newest input.
struct Past {
  number inputs[CHANNEL_ROUNDS][TAPS - 1], bias[CHANNEL_ROUNDS];
  uint2 weights[CHANNEL_ROUNDS];

  __device__ void load(const ProductArguments& a, const Tiles& tiles) {
    const int channels = tiles.count * TILE, e = (int)a.rows / 2;
#pragma unroll
    for (int i = 0; i < CHANNEL_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x;
      if (at >= BATCH * channels) continue;
      int channel = tiles.first * TILE + at % channels, place = (at / channels * e + channel) * (TAPS - 1);
      for (int k = 0; k < TAPS - 1; k++) inputs[i][k] = a.conv_before[place + k];
      weights[i] = *(const uint2*)(a.conv + channel * TAPS);
      bias[i] = a.conv_bias ? a.conv_bias[channel] : 0;
    }
  }

  // What those inputs add, and the weights of the newest. The state takes up all but the newest.
  __device__ void leave(const ProductArguments& a, const Shared& shared, const Tiles& tiles) const {
    const int channels = tiles.count * TILE, e = (int)a.rows / 2;
#pragma unroll
    for (int i = 0; i < CHANNEL_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x;
      if (at >= BATCH * channels) continue;
      int row = at / channels, c = at % channels, place = (row * e + tiles.first * TILE + c) * (TAPS - 1);
      float sum = fmaf(wide(inputs[i][0]), low(weights[i].x), wide(bias[i]));
      sum = fmaf(wide(inputs[i][1]), high(weights[i].x), sum);
      shared.before[row * MOST + c] = fmaf(wide(inputs[i][2]), low(weights[i].y), sum);
      if (row == 0) shared.newest[c] = high(weights[i].y);
      a.conv_after[place] = inputs[i][1];
      a.conv_after[place + 1] = inputs[i][2];
    }
  }
};

// The residual to which this block's outputs are added.
struct Before {
  float values[ADD_ROUNDS];

  __device__ void load(const ProductArguments& a, const Tiles& tiles) {
    const int rows = (int)a.rows, outputs = tiles.outputs(rows);
#pragma unroll
    for (int i = 0; i < ADD_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x;
      if (at < BATCH * outputs) values[i] = fresh(a.residual + at / outputs * rows + tiles.first * TILE + at % outputs);
    }
  }

  __device__ void leave(const Shared& shared, const Tiles& tiles, int rows) const {
    const int outputs = tiles.outputs(rows);
#pragma unroll
    for (int i = 0; i < ADD_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x;
      if (at < BATCH * outputs) shared.before[at / outputs * MOST + at % outputs] = values[i];
    }
  }
};

// What the norm multiplies each row by, a row a warp.
__device__ __forceinline__ void find_scales(const ProductArguments& a, const Shared& shared) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
  float squares[BLOCK_ROUNDS], sum = 0.0f;
#pragma unroll
  for (int i = 0; i < BLOCK_ROUNDS; i++) {
    // Without a branch, so that one load does not wait for the other.
    int block = i * 32 + lane;
    squares[i] = fresh(a.squares + (row < BATCH ? row : 0) * BLOCKS + (block < BLOCKS ? block : 0));
  }
#pragma unroll
  for (int i = 0; i < BLOCK_ROUNDS; i++) sum += i * 32 + lane < BLOCKS ? squares[i] : 0.0f;
#pragma unroll
  for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (lane == 0) shared.scales[row] = rsqrtf(sum / COLUMNS + a.eps);
}

// A row's numbers of a lane's columns.
template <bool BACKWARDS>
__device__ __forceinline__ void hold(uint4* x, const ProductArguments& a, int row, int column) {
#pragma unroll
  for (int k = 0; k < STEPS; k++) {
    const int i = BACKWARDS ? STEPS - 1 - k : k;
    x[i] = make_uint4(0, 0, 0, 0);
    if (row < BATCH) x[i] = fresh((const uint4*)(a.x + row * COLUMNS + column + i * 32));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, LEAST) stream_product(const ProductArguments a) {
  launch_dependents();
  const Shared shared;
  const Tiles tiles((int)a.rows);
  if (threadIdx.x >= GIVER) {
    if (threadIdx.x == GIVER) {
      for (int i = 0; i < STAGES; i++) begin(shared.full + i);
      begun();
    }
    __syncwarp();
    for (int i = 0; i < STAGES; i++) ask(a, shared, tiles, i);
    for (int i = 0; i < a.near; i++) ask_near(a, tiles, STAGES + i);
  }
  Past past;
  if (CONV) past.load(a, tiles);
  if (ADD)
    for (int i = threadIdx.x; i < tiles.outputs((int)a.rows); i += THREADS)
      shared.newest[i] = wide(a.norm[tiles.first * TILE + i]);
  wait_for_kernels();
  Before before;
  if (ADD) before.load(a, tiles);
  const int g = threadIdx.x % 32 / 4, column = threadIdx.x / 32 * STEPS * 32 + threadIdx.x % 4 * 8;
  uint4 x[HELD ? STEPS : AHEAD];
  if (HELD) {
    // Every second block from behind: not all ask for the same at the same time.
    if (blockIdx.x % 2)
      hold<true>(x, a, g, column);
    else
      hold<false>(x, a, g, column);
    if (NORM) find_scales(a, shared);
  } else {
    uint4 rows[ROW_ROUNDS];
#pragma unroll
    for (int i = 0; i < ROW_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x;
      if (at < BATCH * (COLUMNS / 8)) rows[i] = fresh((const uint4*)a.x + at);
    }
    if (NORM) find_scales(a, shared);
#pragma unroll
    for (int i = 0; i < ROW_ROUNDS; i++) {
      int at = i * THREADS + threadIdx.x, row = at / (COLUMNS / 8);
      if (row < BATCH) *(uint4*)(shared.rows + row * X_PITCH + at % (COLUMNS / 8) * 16) = rows[i];
    }
  }
  if (ADD) before.leave(shared, tiles, (int)a.rows);
  __syncthreads();
  const int rows = (int)a.rows, row = threadIdx.x / 8, place = threadIdx.x % 8;  // of the sum that this thread makes
  float squares = 0.0f;  // of the residual that this thread has made
  if (threadIdx.x == GIVER) fetch_coming(a.coming);
  for (int i = 0; i < tiles.both; i++) {
    wait_for(shared.full + i % STAGES, i / STAGES % 2);
    __syncwarp();
    const int output = tiles.at(i) * TILE + place;
    const bool mine = row < BATCH && place < TILE && output < rows;
    const char* slot = shared.ring + i % STAGES * SLOT_BYTES + g * PITCH + column * 2;
    const char* mine_x = shared.rows + g * X_PITCH + column * 2;
    float total[4][4] = {};
#pragma unroll
    for (int k = 0; k < STEPS; k += AHEAD) {
      uint4 w[AHEAD];
#pragma unroll
      for (int j = 0; j < AHEAD; j++) w[j] = from_shared_if(g < TILE, slot + (k + j) * 64);
#pragma unroll
      for (int j = 0; j < AHEAD && !HELD; j++) x[j] = from_shared_if(g < BATCH, mine_x + (k + j) * 64);
#pragma unroll
      for (int j = 0; j < AHEAD; j++) multiply_eight(total + (k + j) % 2 * 2, w[j], x[HELD ? k + j : j]);
    }
    float* part = shared.sums + i % 2 * WARPS * 64;
    leave_totals(part, (total[0][0] + total[1][0]) + (total[2][0] + total[3][0]),
                 (total[0][1] + total[1][1]) + (total[2][1] + total[3][1]));
    if (CONV && i == 0) past.leave(a, shared, tiles);
    __syncthreads();
    if (threadIdx.x >= GIVER) {
      ask(a, shared, tiles, i + STAGES);
      if (a.near) ask_near(a, tiles, i + STAGES + (int)a.near);
    }
    if (mine) {
      float sum = sum_warps(part, threadIdx.x);
      number out = narrow(NORM ? sum * shared.scales[row] : sum);
      const bool convolve = CONV && i >= tiles.plain_count;
      const int known = (i - tiles.plain_count) * TILE + place;
      const float old = ADD || convolve ? shared.before[row * MOST + known] : 0.0f;
      if (convolve) {
        a.conv_after[(row * (rows / 2) + output) * (TAPS - 1) + TAPS - 2] = out;
        out = narrow(silu(fmaf(wide(out), shared.newest[known], old)));
      }
      if (ADD) {
        const float now = old + wide(out);
        squares = fmaf(now, now, squares);
        a.residual[row * rows + output] = now;
        a.next[row * rows + output] = narrow(now * shared.newest[known]);
      } else {
        a.out[row * rows + output] = out;
      }
    }
  }
  if (ADD) {
#pragma unroll
    for (int mask = 4; mask; mask /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, mask);
    if (row < BATCH && place == 0) a.next_squares[row * BLOCKS + blockIdx.x] = squares;
  }
}
