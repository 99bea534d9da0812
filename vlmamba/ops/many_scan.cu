// The rest of a layer's step of many rows between the projections: dt_proj, the scan's step, the gate, and the state
// after it. A block takes at most 56 neighbouring channels of 16 rows; four lanes a channel, four states each. Its first
// eight rows' states wait in registers for the kernel before, the others' in the second-level cache. Set from outside:
//   D_INNER   RANK of dt   PARTS of the channels

#define SCANNERS 224
#define CHANNELS (SCANNERS / 4)
#define ROWS 16
#define HALF 8
#define WIDTH (RANK + 2 * STATE)
#define PITCH (RANK * 2 + 16)
#define STEPS (RANK / 32)
#define ROUNDS ((ROWS * WIDTH / 8 + SCANNERS - 1) / SCANNERS)

struct ManyScanArguments {
  const number* uz;        // (b, 2e): the convolved x, and the gate before its silu
  const number* selected;  // (b, r + 2n)
  const float* before;     // (b, e, n)
  float* after;
  const number* dt_proj;  // (e, r)
  const number* dt_bias;  // (e,)
  const number* A_log;    // (e, n)
  const number* D;        // (e,)
  number* y;              // (b, e)
  int b;
};

// Of four lanes' parts of four rows, the sum of row t to lane t.
__device__ __forceinline__ float sum_of_row(const float* y, int t) {
  const bool odd = t % 2, upper = t / 2;
  const float p = (odd ? y[1] : y[0]) + __shfl_xor_sync(0xffffffffu, odd ? y[0] : y[1], 1);
  const float q = (odd ? y[3] : y[2]) + __shfl_xor_sync(0xffffffffu, odd ? y[2] : y[3], 1);
  return (upper ? q : p) + __shfl_xor_sync(0xffffffffu, upper ? p : q, 2);
}

// Three blocks and one of the next product have registers on a multiprocessor.
extern "C" __global__ void __maxnreg__(80) many_scan(const ManyScanArguments a) {
  launch_dependents();
  const int part = blockIdx.x % PARTS, base = blockIdx.x / PARTS * ROWS;
  // Eight channels at a time, which are 16 bytes.
  const int first = (int)((i64)(D_INNER / 8) * part / PARTS) * 8;
  const int channels = (int)((i64)(D_INNER / 8) * (part + 1) / PARTS) * 8 - first;
  const int rows = a.b - base < ROWS ? a.b - base : ROWS;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int channel = threadIdx.x / 4;  // the same one in dt_proj, as row g of a product, and in the scan
  const bool real = channel < channels;  // all lanes of a warp go along, for products and shuffles
  const i64 at = first + channel;
  char* lows = (char*)memory;                          // (16, r): dt before its projection
  float* selected = (float*)(lows + ROWS * PITCH);     // (16, 2n): B and C
  float* delta = selected + ROWS * 2 * STATE;          // (16, channels)
  number* uz = (number*)(delta + ROWS * CHANNELS);     // (2, 16, channels); y takes the place of u
  const i64 state = ((i64)base * D_INNER + at) * STATE + t * 4, next = (i64)D_INNER * STATE;
  char* kept = (char*)(uz + 2 * ROWS * CHANNELS) + threadIdx.x * 16;  // this thread's part of dt_proj
#pragma unroll
  for (int i = 0; i < STEPS; i++)
    copy_async(kept + i * SCANNERS * 16, a.dt_proj + (real ? at : 0) * RANK + t * 8 + i * 32, real);
  float4 h[HALF], decay = make_float4(0, 0, 0, 0);
  float bias = 0.0f, skip = 0.0f;
#pragma unroll
  for (int row = 0; row < HALF; row++) h[row] = make_float4(0, 0, 0, 0);
  if (real) {
#pragma unroll
    for (int row = 0; row < HALF; row++)
      if (row < rows) h[row] = *(const float4*)(a.before + state + row * next);
    if (threadIdx.x % 8 == 0)
      for (int row = HALF; row < rows; row++) prefetch(a.before + state + row * next);
    const uint2 logs = *(const uint2*)(a.A_log + at * STATE + t * 4);
    decay = make_float4(-expf(low(logs.x)) * LOG2E, -expf(high(logs.x)) * LOG2E, -expf(low(logs.y)) * LOG2E,
                        -expf(high(logs.y)) * LOG2E);
    bias = wide(a.dt_bias[at]), skip = wide(a.D[at]);
  }
  wait_for_kernels();
  // All that the kernels before have made is asked for before any of it is there.
  uint4 chosen[ROUNDS], inputs = make_uint4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int piece = i * SCANNERS + threadIdx.x, row = piece / (WIDTH / 8), column = piece % (WIDTH / 8) * 8;
    chosen[i] = make_uint4(0, 0, 0, 0);
    if (row < rows) chosen[i] = fresh((const uint4*)(a.selected + (i64)(base + row) * WIDTH + column));
  }
  {
    const int half = threadIdx.x / (SCANNERS / 2), row = threadIdx.x / (CHANNELS / 8) % ROWS, c = threadIdx.x % (CHANNELS / 8) * 8;
    if (row < rows && c < channels)
      inputs = fresh((const uint4*)(a.uz + (i64)(base + row) * 2 * D_INNER + half * D_INNER + first + c));
  }
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int piece = i * SCANNERS + threadIdx.x, row = piece / (WIDTH / 8), column = piece % (WIDTH / 8) * 8;
    const uint4 x = chosen[i];
    if (row >= ROWS) continue;
    if (column < RANK) {
      *(uint4*)(lows + row * PITCH + column * 2) = x;
    } else {
      float4* to = (float4*)(selected + row * 2 * STATE + column - RANK);
      to[0] = make_float4(low(x.x), high(x.x), low(x.y), high(x.y));
      to[1] = make_float4(low(x.z), high(x.z), low(x.w), high(x.w));
    }
  }
  *(uint4*)(uz + threadIdx.x * 8) = inputs;
  wait_for_copies();
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total[2][4] = {};
#pragma unroll
    for (int i = 0; i < STEPS; i++)
      multiply_eight(total, from_shared(kept + i * SCANNERS * 16), from_shared(lows + (half * HALF + g) * PITCH + (t * 8 + i * 32) * 2));
#pragma unroll
    for (int k = 0; k < 2; k++)
      delta[(half * HALF + 2 * t + k) * CHANNELS + channel] = softplus(rounded(total[0][k] + total[1][k]) + bias);
  }
  __syncwarp();  // a channel's lanes stand in one warp
#pragma unroll
  for (int quad = 0; quad < ROWS; quad += 4) {
    if (quad >= rows) break;
    float y[4] = {};
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int row = quad + k;
      float4& at_row = h[row % HALF];
      if (row >= rows) break;
      const float4 B = *(const float4*)(selected + row * 2 * STATE + t * 4);
      const float4 C = *(const float4*)(selected + row * 2 * STATE + STATE + t * 4);
      const float d = delta[row * CHANNELS + channel], in = d * wide(uz[row * CHANNELS + channel]);
      at_row.x = fmaf(exp2_unit(d * decay.x), at_row.x, in * B.x);
      at_row.y = fmaf(exp2_unit(d * decay.y), at_row.y, in * B.y);
      at_row.z = fmaf(exp2_unit(d * decay.z), at_row.z, in * B.z);
      at_row.w = fmaf(exp2_unit(d * decay.w), at_row.w, in * B.w);
      y[k] = fmaf(at_row.x, C.x, fmaf(at_row.y, C.y, fmaf(at_row.z, C.z, at_row.w * C.w)));
      if (!real) continue;
      *(float4*)(a.after + state + row * next) = at_row;
      if (row + HALF < rows && row < HALF) at_row = *(const float4*)(a.before + state + (row + HALF) * next);
    }
    const float sum = sum_of_row(y, t);
    const int row = quad + t;
    if (row < rows) {
      number* u = uz + row * CHANNELS + channel;
      *u = narrow(fmaf(skip, wide(*u), sum) * silu(wide(u[ROWS * CHANNELS])));
    }
  }
  __syncthreads();
  const int row = threadIdx.x / (CHANNELS / 8), c = threadIdx.x % (CHANNELS / 8) * 8;
  if (row < rows && c < channels)
    *(uint4*)(a.y + (i64)(base + row) * D_INNER + first + c) = *(const uint4*)(uz + threadIdx.x * 8);
}
