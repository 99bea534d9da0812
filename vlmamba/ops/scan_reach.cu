// How far the gradient of the state reaches across a segment of a sequence: what it becomes on its way from the
// segment's end to its start is `factor` times what it was, plus `term`. Known for every segment, it says what each of them
// begins with (`selective_scan_join`), so that the backward scan can walk all segments at once. Beside those of
// scan_common.cu: TILE, SEGMENTS, BLOCKS.

#define EACH ((TILE + ROWS - 1) / ROWS)
#define ROWS_C (THREADS * BCW / NPAD) // positions that the threads cover, BCW values of C each
#define EACH_C ((TILE + ROWS_C - 1) / ROWS_C)

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_reach(const Arguments a) {
  alignas(16) __shared__ float C[TILE][NPAD];
  alignas(16) __shared__ float steps[TILE][2 * CH]; // delta and the gradient before the gate, side by side
  __shared__ unsigned char resets[TILE];
  int tid = threadIdx.x, units = a.b * a.blocks, unit = blockIdx.x % units, segment = 1 + blockIdx.x / units;
  int block = unit % a.blocks, lane = tid % LANES, tiles = (a.chunks + SEGMENTS - 1) / SEGMENTS;
  int first_tile = segment * tiles, end_tile = within(first_tile + tiles, a.chunks + 1);
  i64 row = unit / a.blocks;
  int pair_index = tid % PAIRS, at = tid / PAIRS, c = block * CH + 2 * pair_index;
  int c0 = within(c, a.e) & (VEC ? ~1 : ~0), next = within(c + 1, a.e) - c0;
  const number *dt_at = a.dt + row * a.dt_b + c0, *gy_at = a.grad_y + row * a.grad_y_b + c0;
  const number* z_at = HAS_Z ? a.z + row * a.z_b + c0 : nullptr;
  float bias0 = 0, bias1 = 0;
  if (a.dt_bias) bias0 = a.dt_bias[c0], bias1 = a.dt_bias[c0 + next];
  int j = tid * BCW % NPAD, at_C = tid * BCW / NPAD;
  bool C_real = j < a.n;
  const number* C_at = a.C + row * a.C_b + (C_real ? j : 0);
  int local = tid / LANES * CPT, channel = block * CH + local, state = lane * STATES;
  float A2[CPT][STATES], factor[CPT][STATES], term[CPT][STATES];
#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++) {
      bool real = channel + k < a.e && state + s < a.n;
      A2[k][s] = real ? a.A[(i64)(channel + k) * a.n + state + s] * LOG2E : 0.0f;
      factor[k][s] = 1.0f, term[k][s] = 0.0f;
    }

  for (int tile = end_tile - 1; tile >= first_tile; tile--) {
    int start = tile * TILE;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS, from = within(start + t, a.l);
      pair dt = load_pair(step_to(dt_at, from, a.dt_l), next), gy = load_pair(step_to(gy_at, from, a.grad_y_l), next);
      float delta0 = first(dt) + bias0, delta1 = second(dt) + bias1, dy0 = first(gy), dy1 = second(gy);
      if (HAS_Z) {
        pair z = load_pair(step_to(z_at, from, a.z_l), next);
        dy0 *= first(z) * sigmoid(first(z)), dy1 *= second(z) * sigmoid(second(z));
      }
      if (SOFTPLUS) {
        delta0 = softplus(delta0, exp2_unit(-LOG2E * fabsf(delta0)));
        delta1 = softplus(delta1, exp2_unit(-LOG2E * fabsf(delta1)));
      }
      if (start + t >= a.l) delta0 = delta1 = dy0 = dy1 = 0.0f;
      if (INSIDE(t, TILE, ROWS)) *(float4*)&steps[t][4 * pair_index] = make_float4(delta0, dy0, delta1, dy1);
    }
#pragma unroll
    for (int i = 0; i < EACH_C; i++) {
      int t = at_C + i * ROWS_C;
      Group from = *(const Group*)step_to(C_at, within(start + t, a.l), a.C_l);
      if (INSIDE(t, TILE, ROWS_C))
#pragma unroll
        for (int k = 0; k < BCW; k++) C[t][j + k] = C_real ? member(from, k) : 0.0f;
    }
    if (HAS_RESET && tid < TILE) resets[tid] = start + tid < a.l && a.reset[row * a.l + start + tid];
    __syncthreads();
#pragma unroll
    for (int t = TILE - 1; t >= 0; t--) {
      float step[2 * CPT], c[STATES];
      take<2 * CPT>(step, &steps[t][2 * local]);
      take<STATES>(c, &C[t][state]);
#pragma unroll
      for (int k = 0; k < CPT; k++)
#pragma unroll
        for (int s = 0; s < STATES; s++) {
          float d = decay(step[2 * k] * A2[k][s], s);
          if (HAS_RESET && resets[t]) d = 0.0f;
          term[k][s] = fmaf(step[2 * k + 1], c[s], term[k][s]) * d;
          factor[k][s] *= d;
        }
    }
  }
#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++)
      if (channel + k < a.e && state + s < a.n) {
        i64 i = ((((i64)segment * a.b + row) * a.e + channel + k) * a.n + state + s) * 2;
        *(float2*)(a.reach + i) = make_float2(factor[k][s], term[k][s]);
      }
}

// From the last segment to the first: what the gradient of the state is where each of them ends.
extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_join(const Arguments a) {
  i64 i = (i64)blockIdx.x * THREADS + threadIdx.x, count = (i64)a.b * a.e * a.n;
  if (i >= count) return;
  float g = a.grad_last ? a.grad_last[i] : 0.0f;
#pragma unroll
  for (int segment = SEGMENTS - 1; segment >= 0; segment--) {
    a.carried[segment * count + i] = g;
    if (segment) {
      float2 reach = *(const float2*)(a.reach + (segment * count + i) * 2);
      g = fmaf(reach.x, g, reach.y);
    }
  }
}
