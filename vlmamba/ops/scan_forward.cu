// The forward scan. A block owns one sequence and CH channels and walks it in tiles of TILE positions. Between barriers:
//   1. its threads share the tile's elements, a pair of channels each: delta, delta * u; B and C as float32
//   2. each thread carries STATES states of CPT channels through the tile; the sums over a channel's LANES lanes are spread
//   3. as in 1: D * u, the gate, the rounding
// The raw values of the next tile are on their way while this one is scanned. Beside those of scan_common.cu:
//   TILE, SAVE (a state is kept every SAVE positions, 0 for none), BLOCKS (a multiprocessor, at least),
//   OUTPUT (0 where only the states are wanted: then there is no 3, and no sum)

#define EACH ((TILE + ROWS - 1) / ROWS)                    // pairs of a tile a thread
#define EACH_BC ((TILE + ROWS_BC - 1) / ROWS_BC) // groups of B and C values a thread
#define STEPS (LANES / CPT)                             // positions whose sums are spread at once
// Of a channel's neighbouring lanes. Wide loads of shared memory whose address a lane shares with the next take half as long.
#define SPACING (LANES >= 4 && LANES <= 16 ? 2 : 1)
// Whether a tile's sums are stored together, where there are registers to hold them: no load of shared memory overtakes a store.
#define TOGETHER (LANES > 2 && NPAD == 16)

// Until the kernel before this one is done, where this one may start while that one runs.
__device__ __forceinline__ void wait_for_kernels() {
#if !defined(EMULATED) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct Tile {
  pair u[EACH], dt[EACH], z[EACH];
  Group bc[EACH_BC];
  unsigned char reset;
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_fwd(const Arguments a) {
  wait_for_kernels();
  alignas(16) __shared__ float bc[TILE][2 * NPAD];  // of each lane: B, then C
  alignas(16) __shared__ float steps[TILE][2 * CH]; // delta and delta * u of a channel side by side
  alignas(16) __shared__ float sums[TILE][CHP];     // C h
  __shared__ unsigned char resets[TILE];
  int tid = threadIdx.x, block = blockIdx.x % a.blocks, lane = tid / SPACING % LANES;
  i64 row = blockIdx.x / a.blocks;
  // As a sharer of elements: its pair of channels and its first position.
  int pair_index = tid % PAIRS, at = tid / PAIRS, c = block * CH + 2 * pair_index;
  int real = a.e - c, c0 = within(c, a.e) & (VEC ? ~1 : ~0), next = within(c + 1, a.e) - c0;
  const number *u_at = a.u + row * a.u_b + c0, *dt_at = a.dt + row * a.dt_b + c0;
  const number* z_at = HAS_Z ? a.z + row * a.z_b + c0 : nullptr;
  number* y_at = a.y + row * a.l * a.e + c;
  float bias0 = 0, bias1 = 0, D0 = 0, D1 = 0;
  if (a.dt_bias) bias0 = a.dt_bias[c0], bias1 = a.dt_bias[c0 + next];
  if (a.D) D0 = a.D[c0], D1 = a.D[c0 + next];
  // As a bringer of B and C: which of the two, and which states.
  int j = tid * BCW % (2 * NPAD), at_bc = tid * BCW / (2 * NPAD), bc_l = j < NPAD ? a.B_l : a.C_l;
  const number* bc_at = j < NPAD ? a.B + row * a.B_b : a.C + row * a.C_b;
  bool bc_real = j % NPAD < a.n;
  if (bc_real) bc_at += j % NPAD;
  // As a carrier of states: its channels and its first state.
  int place = tid % 32 / (SPACING * LANES) * SPACING + tid % SPACING; // of its channels in its warp
  int local = (tid / 32 * (32 / LANES) + place) * CPT, channel = block * CH + local, state = lane * STATES;
  float h[CPT][STATES], A2[CPT][STATES];
#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++) {
      bool real = channel + k < a.e && state + s < a.n;
      i64 i = (i64)(channel + k) * a.n + state + s;
      A2[k][s] = real ? a.A[i] * LOG2E : 0.0f;
      h[k][s] = real && a.initial_state ? a.initial_state[row * a.e * a.n + i] : 0.0f;
    }

  Tile tile;
  auto load_tile = [&](int start) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = within(start + at + i * ROWS, a.l);
      tile.u[i] = load_pair(step_to(u_at, t, a.u_l), next);
      tile.dt[i] = load_pair(step_to(dt_at, t, a.dt_l), next);
      if (HAS_Z) tile.z[i] = load_pair(step_to(z_at, t, a.z_l), next);
    }
#pragma unroll
    for (int i = 0; i < EACH_BC; i++) 
      tile.bc[i] = *(const Group*)step_to(bc_at, within(start + at_bc + i * ROWS_BC, a.l), bc_l);
    if (HAS_RESET) tile.reset = start + tid % TILE < a.l && a.reset[row * a.l + start + tid % TILE];
  };
  if (a.l) load_tile(0);
  for (int start = 0; start < a.l; start += TILE) {
    pair u[EACH], z[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS;
      float delta0 = first(tile.dt[i]) + bias0, delta1 = second(tile.dt[i]) + bias1;
      if (SOFTPLUS) {
        delta0 = softplus(delta0, exp2_unit(-LOG2E * fabsf(delta0)));
        delta1 = softplus(delta1, exp2_unit(-LOG2E * fabsf(delta1)));
      }
      // No position, no step: the state stays as it is.
      if (start + t >= a.l) delta0 = delta1 = 0.0f;
      u[i] = tile.u[i];
      if (HAS_Z) z[i] = tile.z[i];
      if (INSIDE(t, TILE, ROWS))
        *(float4*)&steps[t][4 * pair_index] =
            make_float4(delta0, delta0 * first(u[i]), delta1, delta1 * second(u[i]));
    }
#pragma unroll
    for (int i = 0; i < EACH_BC; i++)
      if (INSIDE(at_bc + i * ROWS_BC, TILE, ROWS_BC)) 
        put_group(bc[at_bc + i * ROWS_BC], j, tile.bc[i], bc_real);
    if (HAS_RESET && tid < TILE) resets[tid] = tile.reset;
    __syncthreads();
    if (start + TILE < a.l) load_tile(start + TILE);

    float spread[TILE / STEPS];
#pragma unroll
    for (int from = 0; from < TILE; from += STEPS) {
      float partial[LANES];
#pragma unroll
      for (int j = 0; j < STEPS; j++) {
        int t = from + j;
        if (SAVE && (start + t) % (SAVE ? SAVE : 1) == 0 && start + t < a.l) {
          i64 chunk = row * a.chunks + (start + t) / (SAVE ? SAVE : 1);
#pragma unroll
          for (int k = 0; k < CPT; k++)
            if (channel + k < a.e) put<STATES>(a.saved + (chunk * a.e + channel + k) * NPAD + state, h[k]);
        }
        if (HAS_RESET && resets[t]) {
#pragma unroll
          for (int k = 0; k < CPT; k++)
#pragma unroll
            for (int s = 0; s < STATES; s++) h[k][s] = 0.0f;
        }
        float step[2 * CPT], BC[2 * STATES];
        take<2 * CPT>(step, &steps[t][2 * local]);
        take<2 * STATES>(BC, &bc[t][2 * state]);
#pragma unroll
        for (int k = 0; k < CPT; k++) {
          float y = 0.0f;
#pragma unroll
          for (int s = 0; s < STATES; s++) {
            h[k][s] = fmaf(decay(step[2 * k] * A2[k][s], s), h[k][s], step[2 * k + 1] * BC[s]);
            if (OUTPUT) y = fmaf(h[k][s], BC[STATES + s], y);
          }
          partial[j * CPT + k] = y;
        }
      }
      float total = OUTPUT ? spread_sum(partial, lane, SPACING) : 0.0f;
      if (TOGETHER) spread[from / STEPS] = total;
      else if (OUTPUT) sums[from + lane / CPT][local + lane % CPT] = total;
    }
#pragma unroll
    for (int from = 0; TOGETHER && from < TILE; from += STEPS)
      if (OUTPUT) sums[from + lane / CPT][local + lane % CPT] = spread[from / STEPS];
    __syncthreads();

#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS;
      if (OUTPUT && INSIDE(t, TILE, ROWS) && start + t < a.l) {
        float2 y = *(const float2*)&sums[t][2 * pair_index];
        y.x = fmaf(D0, first(u[i]), y.x), y.y = fmaf(D1, second(u[i]), y.y);
        if (HAS_Z) {
          float z0 = first(z[i]), z1 = second(z[i]);
          y.x *= z0 * sigmoid(z0), y.y *= z1 * sigmoid(z1);
        }
        store_pair(y_at + (i64)(start + t) * a.e, rounded(y.x, y.y), real);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++)
      if (channel + k < a.e && state + s < a.n)
        a.last[(row * a.e + channel + k) * a.n + state + s] = h[k][s];
}
