// A weight times a few rows. The weight is a stream of chunks that the copy engine puts into a ring in shared memory,
// begun before the kernel that makes the rows is done.
//
// A chunk is whole rows of the weight, one piece of memory, for a copy costs the engine 100 clocks whatever its size. A
// warp multiplies the same columns of every chunk: a step is 32 of them, and lane 4 g + t takes eight of row g of the
// chunk. Set from outside:
//   BATCH rows (at most 8)   COLUMNS of the weight   TILE rows of it in a chunk (at most 8)   STAGES chunks in the ring
//   MOST outputs that a block has   NORM: the rows are the RMSNorm of `residual`   ADD: what comes out is added to it
//   CONV: the first half of what comes out goes through the convolution and silu
//   HELD: the rows stay in registers, else in shared memory   AHEAD steps whose weights are asked for at once
//   GROUP rows whose norm is made at once   LEAST blocks for which a multiprocessor shall have registers

#define STEPS (COLUMNS / THREADS)
#define ROUNDS ((COLUMNS / 4 + THREADS - 1) / THREADS)  // of a thread through a row's norm
#define SLOT_BYTES (TILE * COLUMNS * 2)
#define PITCH (COLUMNS * 2)
#define SWAP (AHEAD % 2 == 0)
#define GIVER (THREADS - 32)  // asks for chunks

struct ProductArguments {
  const number* weight;       // (rows, COLUMNS)
  const number* x;            // (b, COLUMNS), unless NORM
  float* residual;            // (b, COLUMNS) with NORM, (b, rows) with ADD
  const number* norm;         // (COLUMNS,)
  const i64* tokens;          // (b,) in a step's first layer, whose residual is the embeddings; else null
  const number* embeddings;   // (v, COLUMNS), or (v, rows)
  number* out;                // (b, rows), unless ADD
  const number* conv_before;  // (b, e, k-1), with CONV, rows = 2e
  number* conv_after;
  const number* conv;         // (e, k)
  const number* conv_bias;    // (e,) or null
  i64 rows;
  float eps;
};

// The tiles of the weight that a block takes: neighbours, or with CONV two runs of them, one in each half, so that every
// block has as much to convolve.
struct Tiles {
  int first, count, second, both;
  __device__ explicit Tiles(int rows) {
    int all = (rows + TILE - 1) / TILE, half = CONV ? all / 2 : all, mirror = num_blocks() - 1 - blockIdx.x;
    first = share(half, blockIdx.x), count = share(half, blockIdx.x + 1) - first;
    second = half + share(half, mirror) - count;
    both = CONV ? count + share(half, mirror + 1) - share(half, mirror) : count;
  }
  __device__ int at(int i) const { return i < count ? first + i : second + i; }
};

// Everything that the threads of a block share.
struct Shared {
  char *ring, *rows;
  barrier* full;    // one a chunk in the ring
  float *sums, *squares;  // (2, warps, 8, 8), (8, warps)
  float* before;    // (b, outputs): the residual, or what the inputs before the newest add to the convolution
  float* newest;    // (outputs,): its weights of the newest
  __device__ Shared() {
    ring = (char*)memory;
    full = (barrier*)(ring + STAGES * SLOT_BYTES);
    sums = (float*)(full + STAGES + STAGES % 2);
    squares = sums + 2 * WARPS * 64;
    rows = (char*)(squares + 8 * WARPS);
    before = (float*)(rows + (HELD ? 0 : BATCH * PITCH));
    newest = before + BATCH * MOST;
  }
};

__device__ __forceinline__ void ask(const ProductArguments& a, const Shared& shared, const Tiles& tiles, int i) {
  if (i >= tiles.both) return;
  const int place = i % STAGES, row = tiles.at(i) * TILE, left = (int)a.rows - row;
  // The rest of a slot gives what nobody keeps.
  const int bytes = (left < TILE ? left : TILE) * COLUMNS * 2;
  expect(shared.full + place, bytes);
  fetch(shared.ring + place * SLOT_BYTES, a.weight + (i64)row * COLUMNS, bytes, shared.full + place);
}

// What the inputs before the newest add to the convolution of this block's channels, and the weights of the newest. The
// state takes up all but the newest.
__device__ __forceinline__ void look_back(const ProductArguments& a, const Shared& shared, const Tiles& tiles) {
  const int channels = tiles.count * TILE, e = (int)a.rows / 2;
  for (int at = threadIdx.x; at < BATCH * channels; at += THREADS) {
    int row = at / channels, c = at % channels, channel = tiles.first * TILE + c;
    const i64 place = ((i64)row * e + channel) * (TAPS - 1);
    number inputs[TAPS - 1] = {a.conv_before[place], a.conv_before[place + 1], a.conv_before[place + 2]};
    uint2 w = *(const uint2*)(a.conv + (i64)channel * TAPS);
    float sum = fmaf(wide(inputs[0]), low(w.x), a.conv_bias ? wide(a.conv_bias[channel]) : 0.0f);
    sum = fmaf(wide(inputs[1]), high(w.x), sum);
    shared.before[row * MOST + c] = fmaf(wide(inputs[2]), low(w.y), sum);
    if (row == 0) shared.newest[c] = high(w.y);
    a.conv_after[place] = inputs[1];
    a.conv_after[place + 1] = inputs[2];
  }
}

// The residual to which this block's outputs are added.
__device__ __forceinline__ void look_at_residual(const ProductArguments& a, const Shared& shared, const Tiles& tiles) {
  const int rows = (int)a.rows, first = tiles.first * TILE, last = (tiles.first + tiles.count) * TILE;
  const int outputs = (last < rows ? last : rows) - first;
  for (int at = threadIdx.x; at < BATCH * outputs; at += THREADS) {
    int row = at / outputs, place = at % outputs;
    shared.before[row * MOST + place] = a.tokens ? wide(a.embeddings[a.tokens[row] * rows + first + place])
                                                 : fresh(a.residual + (i64)row * rows + first + place);
  }
}

// The norm of the residual, in shared memory.
__device__ __forceinline__ void norm_rows(const ProductArguments& a, const Shared& shared, const uint2* weights) {
#pragma unroll
  for (int base = 0; base < BATCH; base += GROUP) {
    float4 v[GROUP][ROUNDS];
#pragma unroll
    for (int k = 0; k < GROUP * ROUNDS; k++) {
      int row = base + k / ROUNDS, at = k % ROUNDS * THREADS + threadIdx.x;
      float4* to = &v[k / ROUNDS][k % ROUNDS];
      *to = make_float4(0, 0, 0, 0);
      if (row >= BATCH || at >= COLUMNS / 4) continue;
      *to = a.tokens ? wide4(*((const uint2*)(a.embeddings + a.tokens[row] * COLUMNS) + at))
                     : fresh((const float4*)(a.residual + (i64)row * COLUMNS) + at);
    }
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
      float squares = squares_of(v[k], ROUNDS);
      if (threadIdx.x % 32 == 0 && base + k < BATCH) shared.squares[(base + k) * WARPS + threadIdx.x / 32] = squares;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
      if (base + k >= BATCH) continue;
      float scale = scale_of(shared.squares + (base + k) * WARPS, COLUMNS, a.eps);
#pragma unroll
      for (int i = 0; i < ROUNDS; i++) {
        int at = i * THREADS + threadIdx.x;
        if (at < COLUMNS / 4) *((uint2*)(shared.rows + (base + k) * PITCH) + at) = scaled(v[k][i], scale, weights[i]);
      }
    }
  }
}

// AHEAD steps of a row from shared memory. Odd rows take the second of two steps first: then rows that are read
// together lie on different banks.
__device__ __forceinline__ void load_steps(uint4* to, const char* from, int row, bool real) {
  const int odd = SWAP ? row % 2 : 0;
#pragma unroll
  for (int j = 0; j < AHEAD; j++) to[j] = from_shared_if(real, from + (j ^ odd) * 64);
  if (!SWAP) return;
#pragma unroll
  for (int j = 0; j < AHEAD; j += 2) {
    uint4 p = to[j], q = to[j + 1];
    to[j] = odd ? q : p, to[j + 1] = odd ? p : q;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, LEAST) stream_product(const ProductArguments a) {
  launch_dependents();
  const Shared shared;
  const Tiles tiles((int)a.rows);
  if (threadIdx.x == GIVER) {
    for (int i = 0; i < STAGES; i++) begin(shared.full + i);
    begun();
    for (int i = 0; i < STAGES; i++) ask(a, shared, tiles, i);
  }
  uint2 norm[ROUNDS];
  if (NORM)
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
      if (i * THREADS + threadIdx.x < COLUMNS / 4) norm[i] = *((const uint2*)a.norm + i * THREADS + threadIdx.x);
  if (CONV) look_back(a, shared, tiles);
  wait_for_kernels();
  const int g = threadIdx.x % 32 / 4, column = threadIdx.x / 32 * STEPS * 32 + threadIdx.x % 4 * 8;
  uint4 x[HELD ? STEPS : AHEAD];
#pragma unroll
  for (int i = 0; i < (HELD ? STEPS : AHEAD); i++) {
    x[i] = make_uint4(0, 0, 0, 0);
    if (HELD && g < BATCH) x[i] = fresh((const uint4*)(a.x + (i64)g * COLUMNS + column + i * 32));
  }
  if (NORM) {
    norm_rows(a, shared, norm);
  } else if (!HELD) {
#pragma unroll
    for (int i = 0; i < BATCH * (COLUMNS / 8); i += THREADS)
      if (i + threadIdx.x < BATCH * (COLUMNS / 8))
        *((uint4*)shared.rows + i + threadIdx.x) = fresh((const uint4*)a.x + i + threadIdx.x);
  }
  if (ADD) look_at_residual(a, shared, tiles);
  __syncthreads();
  const int rows = (int)a.rows, row = threadIdx.x / 8, place = threadIdx.x % 8;  // of the sum that this thread makes
  for (int i = 0; i < tiles.both; i++) {
    const int output = tiles.at(i) * TILE + place;
    const bool mine = row < BATCH && place < TILE && output < rows;
    wait_for(shared.full + i % STAGES, i / STAGES % 2);
    __syncwarp();
    const char* slot = shared.ring + i % STAGES * SLOT_BYTES + (g * COLUMNS + column) * 2;
    const char* mine_x = shared.rows + g * PITCH + column * 2;
    float total[4][4] = {};
#pragma unroll
    for (int k = 0; k < STEPS; k += AHEAD) {
      uint4 w[AHEAD];
      load_steps(w, slot + k * 64, g, g < TILE);
      if (!HELD) load_steps(x, mine_x + k * 64, g, g < BATCH);
#pragma unroll
      for (int j = 0; j < AHEAD; j++) multiply_eight(total + (k + j) % 2 * 2, w[j], x[HELD ? k + j : j]);
    }
    float* part = shared.sums + i % 2 * WARPS * 64;
    leave_totals(part, (total[0][0] + total[1][0]) + (total[2][0] + total[3][0]),
                 (total[0][1] + total[1][1]) + (total[2][1] + total[3][1]));
    __syncthreads();
    if (threadIdx.x == GIVER) ask(a, shared, tiles, i + STAGES);
    if (mine) {
      float sum = sum_warps(part, threadIdx.x);
      number out = narrow(sum);
      const bool convolve = CONV && i < tiles.count;
      const float before = ADD || convolve ? shared.before[row * MOST + i * TILE + place] : 0.0f;
      if (convolve) {
        a.conv_after[((i64)row * (rows / 2) + output) * (TAPS - 1) + TAPS - 2] = out;
        out = narrow(silu(fmaf(wide(out), shared.newest[i * TILE + place], before)));
      }
      if (ADD)
        a.residual[(i64)row * rows + output] = before + wide(out);
      else
        a.out[(i64)row * rows + output] = out;
    }
  }
}
