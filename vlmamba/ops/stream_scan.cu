// The rest of a layer's step between the projections: dt_proj, the scan's step, the gate, and the state after it.
// A block takes neighbouring channels, at most 64, of all rows; four lanes a channel, four states each. Set from outside:
//   BATCH rows (at most 8)   D_INNER   RANK of dt   SPLITS of x_proj's partial sums

#define CHANNELS (THREADS / 4)
#define WIDTH (RANK + 2 * STATE)
#define PITCH (RANK * 2 + 16)
#define STEPS (RANK / 32)
// What waits in shared memory instead of registers: dt_proj, and the states.
#define KEPT (BATCH > 2)
#define STATES_KEPT (BATCH > 4)
#define PAIRS (BATCH * WIDTH / 2)
#define SELECT_ROUNDS ((PAIRS + THREADS - 1) / THREADS)

struct ScanArguments {
  const number* uz;         // (b, 2e): the convolved x, and the gate before its silu
  const float* selected;    // (splits, b, r + 2n)
  const float* ssm_before;  // (b, e, n)
  float* ssm_after;
  const number* dt_proj;    // (e, r)
  const number* dt_bias;    // (e,)
  const number* A_log;      // (e, n)
  const number* D;          // (e,)
  number* y;                // (b, e)
  Coming coming;
};

extern "C" __global__ void __launch_bounds__(THREADS, 4) stream_scan(const ScanArguments a) {
  launch_dependents();
  const int first = share(D_INNER, blockIdx.x), channels = share(D_INNER, blockIdx.x + 1) - first;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int channel = threadIdx.x / 4;  // the same one in dt_proj, as row g of a product, and in the scan
  const bool real = channel < channels;  // all lanes of a warp go along, for products and shuffles
  const i64 at = first + channel;
  char* rows = (char*)memory;                        // (b, r): dt before its projection
  float* selected = (float*)(rows + BATCH * PITCH);  // (b, 2n): B and C
  float* delta = selected + BATCH * 2 * STATE;       // (b, channels)
  // This thread's part of dt_proj, and its states.
  char* kept = (char*)(delta + BATCH * CHANNELS) + threadIdx.x * 16;
  char* states = kept + STEPS * THREADS * 16;
  uint4 w[STEPS];
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    const number* from = a.dt_proj + (real ? at : 0) * RANK + t * 8 + i * 32;
    if (KEPT)
      copy_async(kept + i * THREADS * 16, from, real);
    else
      w[i] = real ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
  }
  float4 h[BATCH], decay;
  float bias, skip;
  if (real) {
#pragma unroll
    for (int row = 0; row < BATCH; row++) {
      const float4* state = (const float4*)(a.ssm_before + ((i64)row * D_INNER + at) * STATE) + t;
      if (STATES_KEPT)
        copy_async(states + row * THREADS * 16, state, true);
      else
        h[row] = *state;
    }
    uint2 logs = *((const uint2*)(a.A_log + at * STATE) + t);
    decay = make_float4(-expf(low(logs.x)) * LOG2E, -expf(high(logs.x)) * LOG2E, -expf(low(logs.y)) * LOG2E,
                        -expf(high(logs.y)) * LOG2E);
    bias = wide(a.dt_bias[at]), skip = wide(a.D[at]);
  }
  wait_for_kernels();
  float2 sums[SELECT_ROUNDS][SPLITS];
#pragma unroll
  for (int i = 0; i < SELECT_ROUNDS * SPLITS; i++) {
    int pair = i / SPLITS * THREADS + threadIdx.x;
    if (pair < PAIRS) sums[i / SPLITS][i % SPLITS] = fresh((const float2*)a.selected + i % SPLITS * PAIRS + pair);
  }
  number u[BATCH], z[BATCH];
  if (real) {
#pragma unroll
    for (int row = 0; row < BATCH; row++) {
      u[row] = fresh(a.uz + (i64)row * 2 * D_INNER + at);
      z[row] = fresh(a.uz + (i64)row * 2 * D_INNER + D_INNER + at);
    }
  }
#pragma unroll
  for (int i = 0; i < SELECT_ROUNDS; i++) {
    int pair = i * THREADS + threadIdx.x, row = pair / (WIDTH / 2), column = pair % (WIDTH / 2) * 2;
    if (pair >= PAIRS) continue;
    float2 sum = sums[i][0];
#pragma unroll
    for (int split = 1; split < SPLITS; split++) sum.x += sums[i][split].x, sum.y += sums[i][split].y;
    if (column < RANK)
      *(word*)(rows + row * PITCH + column * 2) = bfloats(sum.x, sum.y);
    else
      *(float2*)(selected + row * 2 * STATE + column - RANK) = make_float2(rounded(sum.x), rounded(sum.y));
  }
  if (KEPT) wait_for_copies();
  __syncthreads();
  if (threadIdx.x == THREADS - 32) fetch_coming(a.coming);
  float total[2][4] = {};
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    uint4 x = from_shared_if(g < BATCH, rows + g * PITCH + (t * 8 + i * 32) * 2);
    multiply_eight(total, KEPT ? from_shared(kept + i * THREADS * 16) : w[i], x);
  }
#pragma unroll
  for (int k = 0; k < 2; k++)
    if (real && 2 * t + k < BATCH)
      delta[(2 * t + k) * CHANNELS + channel] = softplus(rounded(total[0][k] + total[1][k]) + bias);
  __syncwarp();  // a channel's lanes stand in one warp
#pragma unroll
  for (int row = 0; row < BATCH; row++) {
    if (STATES_KEPT) h[row] = from_shared_wide(states + row * THREADS * 16);
    float4 B = *(const float4*)(selected + row * 2 * STATE + t * 4);
    float4 C = *(const float4*)(selected + row * 2 * STATE + STATE + t * 4);
    float d = delta[row * CHANNELS + channel], in = d * wide(u[row]);
    h[row].x = fmaf(exp2_unit(d * decay.x), h[row].x, in * B.x);
    h[row].y = fmaf(exp2_unit(d * decay.y), h[row].y, in * B.y);
    h[row].z = fmaf(exp2_unit(d * decay.z), h[row].z, in * B.z);
    h[row].w = fmaf(exp2_unit(d * decay.w), h[row].w, in * B.w);
    float y = fmaf(h[row].x, C.x, fmaf(h[row].y, C.y, fmaf(h[row].z, C.z, h[row].w * C.w)));
    y += __shfl_xor_sync(0xffffffffu, y, 1);
    y += __shfl_xor_sync(0xffffffffu, y, 2);
    if (!real) continue;
    if (t == row % 4) a.y[(i64)row * D_INNER + at] = narrow(fmaf(skip, wide(u[row]), y) * silu(wide(z[row])));
    *((float4*)(a.ssm_after + ((i64)row * D_INNER + at) * STATE) + t) = h[row];
  }
}
