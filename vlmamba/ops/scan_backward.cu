// The backward scan. A block owns one sequence and CH channels and takes its chunks of CHUNK positions from the last to the
// first, each from the state that the forward pass saved at its start:
//   1. the block's threads, or with OWN a warp's for its own channels, share the chunk's elements: delta, the gate, their
//      derivatives; B and C as float32
//   2. each thread walks STATES states of CPT channels forward, all CHUNK states and decays kept in registers, and back again
//      with g, the gradient of the state; sums over a channel's lanes are spread over them, sums over a warp's
//      channels (for dB, dC) go through shared memory, RUN positions at a time
//   3. as in 1: the gradients of u, dt and z; the sums over the block's warps, one partial a block, without atomics.
//      With OWN these are made beside the next chunk, so that one barrier a chunk is enough
// The raw values of the next chunk arrive in the background. Beside those of scan_common.cu: TILE, CHUNK,
// BLOCKS, KEEP: whether decays stay in registers too, or are computed a second time for more warps; and
// OWN: whether a warp brings the elements of its own channels;
// SEGMENTS: the blocks that walk a sequence, with CUT all at once, each from what `selective_scan_join` has found; else
// one after the other, so that the last blocks to start are short ones.

#define EACH ((TILE + ROWS - 1) / ROWS)
#define EACH_BC ((TILE + ROWS_BC - 1) / ROWS_BC)
#define CHUNKS (TILE / CHUNK)
#define STEPS (LANES / CPT)
#define GROUPS (32 / LANES) // of lanes a warp, each with CPT channels
#define QUADS (NPAD / 2)    // fours of dB and dC values a position
#define RUN (32 / QUADS)
#define BUFFERS 2 // so that one can be summed while the next is filled
struct Operands {
  float step[2 * CPT], dy[CPT], BC[2 * STATES];
};

struct Element {
  float delta, u, dyg, slope, dgate; // slope: of softplus; dgate: dz over the ungated y
};

__device__ __forceinline__ void fetch_pair(pair* to, const number* from, int next) {
#if VEC
  copy_async<sizeof(pair)>(to, from);
#else
  *to = load_pair(from, next);
#endif
}

__device__ __forceinline__ Element element(float dt, float u, float z, float gy, bool real) {
  Element x;
  float e = exp2_unit(-LOG2E * fabsf(dt)), delta = SOFTPLUS ? softplus(dt, e) : dt;
  gy = real ? gy : 0.0f;
  x.u = u, x.delta = real ? delta : 0.0f, x.slope = SOFTPLUS ? sigmoid_from(dt, e) : 1.0f;
  x.dyg = gy, x.dgate = 0.0f;
  if (HAS_Z) {
    float gate = sigmoid(z);
    x.dgate = gy * gate * fmaf(z, 1.0f - gate, 1.0f);
    x.dyg = gy * z * gate;
  }
  return x;
}

__device__ __forceinline__ float exponent(float delta, float A2, float reset) {
  return HAS_RESET ? fmaf(delta, A2, reset) : delta * A2;
}

enum { DYG, SLOPE, U, DGATE };
enum { DX, DDELTA, Y };
struct alignas(16) Shared {
  float states[CHUNKS][CPT][THREADS * STATES]; // every thread's: fetched for the tile, then at its chunks' starts
  float bc[1 + OWN][TILE][2 * NPAD];    // of each lane: B, then C
  float across[WARPS][BUFFERS][RUN][GROUPS][2 * NPAD], dbc[1 + OWN][WARPS][TILE][2 * NPAD];
  float steps[TILE][2 * CH];           // delta and delta * u of a channel side by side
  float2 elements[3 + HAS_Z][TILE * PAIRS]; // of `Element`: DYG, SLOPE, U, DGATE
  float found[2 + HAS_Z][TILE][CHP];   // sums over states: DX, DDELTA, Y
  pair raw[3 + HAS_Z][TILE * PAIRS];   // u, dt, grad_y, z
  float resets[1 + OWN][TILE]; // a summand of the decays' exponents: where a sample begins one that makes them 0
};
// Where a pair of channels at a position stands, so that what a warp brings at once lies on different banks.
__device__ __forceinline__ int place(int t, int pair) {
  return OWN ? (pair / (CHW / 2) * TILE + t) * (CHW / 2) + pair % (CHW / 2) : t * PAIRS + pair;
}
static_assert(sizeof(Shared) == SHARED_BYTES, "the launch asks for another amount of shared memory");

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_bwd(const Arguments a) {
  extern __shared__ float4 memory[];
  Shared& m = *(Shared*)memory;
  int tid = threadIdx.x, lane = tid % LANES, warp = tid / 32;
#if SEGMENTS > 1 && !CUT
  // In the order in which blocks start, so that a block never waits for one that has not started.
  __shared__ int ticket;
  if (!tid) ticket = take_ticket(a.progress);
  __syncthreads();
  int units = a.b * a.blocks, unit = ticket % units, before_it = ticket / units;
#else
  int units = a.b * a.blocks, unit = blockIdx.x % units, before_it = blockIdx.x / units;
#endif
  int block = unit % a.blocks, segment = SEGMENTS - 1 - before_it, tiles = (a.chunks + SEGMENTS - 1) / SEGMENTS;
  int first_tile = segment * tiles, end_tile = within(first_tile + tiles, a.chunks + 1);
  i64 row = unit / a.blocks;
#if OWN
  int pair_index = warp * (CHW / 2) + tid % (CHW / 2), at = tid % 32 / (CHW / 2);
#else
  int pair_index = tid % PAIRS, at = tid / PAIRS;
#endif
  int c = block * CH + 2 * pair_index;
  int real = a.e - c, c0 = within(c, a.e) & (VEC ? ~1 : ~0), next = within(c + 1, a.e) - c0;
  const number *u_at = a.u + row * a.u_b + c0, *dt_at = a.dt + row * a.dt_b + c0;
  const number *gy_at = a.grad_y + row * a.grad_y_b + c0, *z_at = HAS_Z ? a.z + row * a.z_b + c0 : nullptr;
  float bias0 = 0, bias1 = 0, D0 = 0, D1 = 0, dD0 = 0, dD1 = 0, dbias0 = 0, dbias1 = 0;
  if (a.dt_bias) bias0 = a.dt_bias[c0], bias1 = a.dt_bias[c0 + next];
  if (a.D) D0 = a.D[c0], D1 = a.D[c0 + next];
  int j = tid * BCW % (2 * NPAD), at_bc = tid * BCW / (2 * NPAD), bc_l = j < NPAD ? a.B_l : a.C_l;
  const number* bc_at = j < NPAD ? a.B + row * a.B_b : a.C + row * a.C_b;
  bool bc_real = j % NPAD < a.n;
  if (bc_real) bc_at += j % NPAD;
  float* dbc_at = a.dBC + ((i64)block * a.b + row) * a.l * 2 * a.n + j / NPAD * a.n + j % NPAD;
  int local = tid / LANES * CPT, channel = block * CH + local, state = lane * STATES;
  int group = tid % 32 / LANES, odd = group & 1;
  float g[CPT][STATES], A2[CPT][STATES], dA[CPT][STATES];
#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++) {
      bool real = channel + k < a.e && state + s < a.n;
      i64 i = (i64)(channel + k) * a.n + state + s;
      A2[k][s] = real ? a.A[i] * LOG2E : 0.0f;
#if CUT
      g[k][s] = real ? a.carried[(segment * a.b + row) * a.e * a.n + i] : 0.0f;
#else
      g[k][s] = real && a.grad_last ? a.grad_last[row * a.e * a.n + i] : 0.0f;
#endif
      dA[k][s] = 0.0f;
    }

  const float* saved_at = a.saved + row * a.chunks * a.e * NPAD + state;
  Group raw_bc[EACH_BC];
  int raw_reset = 0;
  auto fetch = [&](int tile) {
    int start = tile * TILE;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS;
      int from = within(start + t, a.l);
      if (INSIDE(t, TILE, ROWS)) {
        fetch_pair(&m.raw[0][place(t, pair_index)], step_to(u_at, from, a.u_l), next);
        fetch_pair(&m.raw[1][place(t, pair_index)], step_to(dt_at, from, a.dt_l), next);
        fetch_pair(&m.raw[2][place(t, pair_index)], step_to(gy_at, from, a.grad_y_l), next);
        if (HAS_Z) fetch_pair(&m.raw[2 + HAS_Z][place(t, pair_index)], step_to(z_at, from, a.z_l), next);
      }
    }
#pragma unroll
    for (int k = 0; k < CPT; k++) {
      const float* from = saved_at + ((i64)tile * a.e + within(channel + k, a.e)) * NPAD;
      constexpr int bytes = STATES % 4 == 0 ? 16 : STATES % 2 == 0 ? 8 : 4;
#pragma unroll
      for (int s = 0; s < STATES; s += bytes / 4)
        copy_async<bytes>(&m.states[0][k][tid * STATES + s], from + s);
    }
#pragma unroll
    for (int i = 0; i < EACH_BC; i++) 
      raw_bc[i] = *(const Group*)step_to(bc_at, within(start + at_bc + i * ROWS_BC, a.l), bc_l);
    if (HAS_RESET) raw_reset = a.reset[row * a.l + within(start + tid % TILE, a.l)];
  };

  // dB and dC of a tile, from those of the block's warps.
  auto sum_warps = [&](int tile) {
    int start = tile * TILE;
#pragma unroll
    for (int i = 0; i < EACH_BC; i++) {
      int t = at_bc + i * ROWS_BC;
      if (INSIDE(t, TILE, ROWS_BC) && start + t < a.l && bc_real) {
        float sum[BCW] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
          float part[BCW];
          take<BCW>(part, &m.dbc[OWN ? tile % 2 : 0][w][t][j]);
#pragma unroll
          for (int k = 0; k < BCW; k++) sum[k] += part[k];
        }
        put<BCW>(dbc_at + (i64)(start + t) * 2 * a.n, sum);
      }
    }
  };

  if (end_tile > first_tile) fetch(end_tile - 1);
#if SEGMENTS > 1 && !CUT
  float* carried = a.carried + ((i64)unit * THREADS + tid) * CPT * STATES;
  if (before_it) {
    if (!tid) wait_until(a.progress + 1 + unit, before_it);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < CPT; k++)
#pragma unroll
      for (int s = 0; s < STATES; s++) g[k][s] = carried[k * STATES + s];
  }
#endif
  for (int tile = end_tile - 1; tile >= first_tile; tile--) {
    int start = tile * TILE;
    wait_for_copies();
    // Elements have been fetched by those that read them.
    if (!OWN) __syncthreads();
    int side = OWN ? tile % 2 : 0;
    float(*bc)[2 * NPAD] = m.bc[side], *resets = m.resets[side];
    float h[CPT][STATES];
#pragma unroll
    for (int k = 0; k < CPT; k++) take<STATES>(h[k], &m.states[0][k][tid * STATES]);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS;
      if (INSIDE(t, TILE, ROWS)) {
        pair u = m.raw[0][place(t, pair_index)], dt = m.raw[1][place(t, pair_index)], gy = m.raw[2][place(t, pair_index)], z = {};
        if (HAS_Z) z = m.raw[2 + HAS_Z][place(t, pair_index)];
        bool inside = start + t < a.l;
        Element x = element(first(dt) + bias0, first(u), first(z), first(gy), inside && real > 0);
        Element y = element(second(dt) + bias1, second(u), second(z), second(gy), inside && real > 1);
        int both = 2 * pair_index;
        *(float4*)&m.steps[t][2 * both] = make_float4(x.delta, x.delta * x.u, y.delta, y.delta * y.u);
        m.elements[DYG][place(t, pair_index)] = make_float2(x.dyg, y.dyg);
        m.elements[U][place(t, pair_index)] = make_float2(x.u, y.u);
        m.elements[SLOPE][place(t, pair_index)] = make_float2(x.slope, y.slope);
        if (HAS_Z) m.elements[DGATE][place(t, pair_index)] = make_float2(x.dgate, y.dgate);
      }
    }
#pragma unroll
    for (int i = 0; i < EACH_BC; i++)
      if (INSIDE(at_bc + i * ROWS_BC, TILE, ROWS_BC)) 
        put_group(bc[at_bc + i * ROWS_BC], j, raw_bc[i], bc_real);
    if (HAS_RESET && tid < TILE) resets[tid] = raw_reset && start + tid < a.l ? -1e30f : 0.0f;
    __syncthreads();
    if (tile > first_tile) fetch(tile - 1);
    if (OWN && tile < end_tile - 1) sum_warps(tile + 1);

    for (int chunk = 0; chunk < CHUNKS - 1; chunk++) {
#pragma unroll
      for (int k = 0; k < CPT; k++) put<STATES>(&m.states[1 + chunk][k][tid * STATES], h[k]);
#pragma unroll
      for (int t = 0; t < CHUNK; t++) {
        float step[2 * CPT], B[STATES];
        take<2 * CPT>(step, &m.steps[chunk * CHUNK + t][2 * local]);
        take<STATES>(B, &bc[chunk * CHUNK + t][2 * state]);
        float reset = HAS_RESET ? resets[chunk * CHUNK + t] : 0.0f;
#pragma unroll
        for (int k = 0; k < CPT; k++)
#pragma unroll
          for (int s = 0; s < STATES; s++) {
            float d = decay(exponent(step[2 * k], A2[k][s], reset), s);
            h[k][s] = fmaf(d, h[k][s], step[2 * k + 1] * B[s]);
          }
      }
    }
#pragma unroll 1
    for (int chunk = CHUNKS - 1; chunk >= 0; chunk--) {
      int base = chunk * CHUNK;
      if (chunk < CHUNKS - 1)
#pragma unroll
        for (int k = 0; k < CPT; k++) take<STATES>(h[k], &m.states[1 + chunk][k][tid * STATES]);
      float before[CHUNK][CPT][STATES], decays[KEEP ? CHUNK : 1][CPT][STATES];
#pragma unroll
      for (int t = 0; t < CHUNK; t++) {
        float step[2 * CPT], B[STATES];
        take<2 * CPT>(step, &m.steps[base + t][2 * local]);
        take<STATES>(B, &bc[base + t][2 * state]);
        float reset = HAS_RESET ? resets[base + t] : 0.0f;
#pragma unroll
        for (int k = 0; k < CPT; k++)
#pragma unroll
          for (int s = 0; s < STATES; s++) {
            float d = decay(exponent(step[2 * k], A2[k][s], reset), s);
            if (KEEP) decays[t][k][s] = d;
            before[t][k][s] = h[k][s];
            h[k][s] = fmaf(d, h[k][s], step[2 * k + 1] * B[s]);
          }
      }
      auto operands = [&](int t) {
        Operands x;
        take<2 * CPT>(x.step, &m.steps[base + t][2 * local]);
        take<CPT>(x.dy, (const float*)&m.elements[DYG][place(base + t, local / 2)] + local % 2);
        take<2 * STATES>(x.BC, &bc[base + t][2 * state]);
        return x;
      };
      Operands ahead = operands(CHUNK - 1);
      float4 groups_sum;
      // Adds `count` groups, from number `from` on, of all positions of a run; the lanes share positions and values.
      auto add_groups = [&](int from, int count, int run) {
        int q = tid % 32 / QUADS, quad = tid % QUADS * 4;
#pragma unroll
        for (int i = from; i < from + count; i++) {
          float4 more = *(const float4*)&m.across[warp][run % BUFFERS][q][i][i & 1 ? quad ^ NPAD : quad];
          if (!i) groups_sum = more;
          else groups_sum.x += more.x, groups_sum.y += more.y, groups_sum.z += more.z, groups_sum.w += more.w;
        }
        if (from + count == GROUPS) *(float4*)&m.dbc[side][warp][base + run * RUN + q][quad] = groups_sum;
      };
      float y_part[LANES], dx_part[LANES], dd_part[LANES], spread[STEPS < RUN ? RUN / STEPS : 1][3];
#pragma unroll
      for (int t = CHUNK - 1; t >= 0; t--) {
        // Asked for before this position's stores, which the compiler would not let later loads overtake.
        Operands now = ahead;
        if (t) ahead = operands(t - 1);
        int r = t % RUN, j = t % STEPS;
        float reset = !KEEP && HAS_RESET ? resets[base + t] : 0.0f;
        float dB[STATES], dC[STATES];
#pragma unroll
        for (int k = 0; k < CPT; k++) {
          float y = 0, x = 0, dd = 0;
#pragma unroll
          for (int s = 0; s < STATES; s++) {
            y = fmaf(h[k][s], now.BC[STATES + s], y);
            dC[s] = k ? fmaf(h[k][s], now.dy[k], dC[s]) : h[k][s] * now.dy[k];
            g[k][s] = fmaf(now.dy[k], now.BC[STATES + s], g[k][s]);
            dB[s] = k ? fmaf(g[k][s], now.step[2 * k + 1], dB[s]) : g[k][s] * now.step[2 * k + 1];
            x = fmaf(g[k][s], now.BC[s], x);
            float d = KEEP ? decays[t][k][s] : decay(exponent(now.step[2 * k], A2[k][s], reset), s);
            g[k][s] *= d;
            float through = g[k][s] * before[t][k][s];
            dA[k][s] = fmaf(through, now.step[2 * k], dA[k][s]);
            dd = fmaf(through, A2[k][s], dd);
            h[k][s] = before[t][k][s];
          }
          y_part[j * CPT + k] = y, dx_part[j * CPT + k] = x, dd_part[j * CPT + k] = dd;
        }
        if (j == 0) {
          int i = STEPS < RUN ? r / STEPS : 0;
          if (HAS_Z) spread[i][Y] = spread_sum(y_part, lane);
          spread[i][DX] = spread_sum(dx_part, lane);
          spread[i][DDELTA] = spread_sum(dd_part, lane);
        }
        if (t % (STEPS < RUN ? RUN : STEPS) == 0)
#pragma unroll
          for (int i = 0; i < (STEPS < RUN ? RUN / STEPS : 1); i++)
#pragma unroll
            for (int which = 0; which < 2 + HAS_Z; which++)
              m.found[which][base + t + i * STEPS + lane / CPT][local + lane % CPT] = spread[i][which];
        int buffer = t / RUN % BUFFERS;
        put<STATES>(&m.across[warp][buffer][r][group][odd * NPAD + state], dB);
        put<STATES>(&m.across[warp][buffer][r][group][(1 - odd) * NPAD + state], dC);
        // Meanwhile a part of the groups of the run before, so that its values are not waited for.
        if (t / RUN < CHUNK / RUN - 1) add_groups((RUN - 1 - r) * GROUPS / RUN, GROUPS / RUN, t / RUN + 1);
        if (r == 0) __syncwarp();
      }
      add_groups(0, GROUPS, 0);
      if (CHUNK / RUN % BUFFERS) __syncwarp();
    }
    if (OWN) __syncwarp();
    else __syncthreads();

    i64 first_at = row * a.l + start + at, pitch = (i64)ROWS * a.e, dz_pitch = (i64)ROWS * a.dz_pitch;
    number *du_at = a.du + first_at * a.e + c, *ddt_at = a.ddt + first_at * a.e + c;
    number* dz_at = HAS_Z ? a.dz + first_at * a.dz_pitch + c : nullptr;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int t = at + i * ROWS, both = 2 * pair_index;
      if (INSIDE(t, TILE, ROWS)) { // no branch by position: all of a thread's loads are on their way at once
        bool inside = start + t < a.l;
        int stored = inside ? real : 0;
        float4 step = *(const float4*)&m.steps[t][2 * both];
        float2 x = *(const float2*)&m.found[DX][t][both], u = m.elements[U][place(t, pair_index)];
        float2 dd = *(const float2*)&m.found[DDELTA][t][both], sl = m.elements[SLOPE][place(t, pair_index)];
        float2 dy = m.elements[DYG][place(t, pair_index)];
        store_pair(du_at + i * pitch, rounded(fmaf(x.x, step.x, dy.x * D0), fmaf(x.y, step.z, dy.y * D1)), stored);
        float ddt0 = fmaf(x.x, u.x, LN2 * dd.x) * sl.x, ddt1 = fmaf(x.y, u.y, LN2 * dd.y) * sl.y;
        store_pair(ddt_at + i * pitch, rounded(ddt0, ddt1), stored);
        dbias0 += inside ? ddt0 : 0.0f, dbias1 += inside ? ddt1 : 0.0f;
        dD0 = fmaf(dy.x, u.x, dD0), dD1 = fmaf(dy.y, u.y, dD1);
        if (HAS_Z) {
          float2 y = *(const float2*)&m.found[Y][t][both], dg = m.elements[DGATE][place(t, pair_index)];
          store_pair(dz_at + i * dz_pitch, rounded(dg.x * fmaf(D0, u.x, y.x), dg.y * fmaf(D1, u.y, y.y)), stored);
        }
      }
    }
    if (!OWN) sum_warps(tile);
  }
  if (OWN) {
    __syncthreads();
    if (end_tile > first_tile) sum_warps(first_tile);
  }

#pragma unroll
  for (int k = 0; k < CPT; k++)
#pragma unroll
    for (int s = 0; s < STATES; s++)
      if (channel + k < a.e && state + s < a.n) {
        i64 i = (i64)(channel + k) * a.n + state + s;
        a.dA[(segment * a.b + row) * a.e * a.n + i] = dA[k][s];
        if (a.dinitial && !segment) a.dinitial[row * a.e * a.n + i] = g[k][s];
      }
#if SEGMENTS > 1 && !CUT
  if (segment)
#pragma unroll
    for (int k = 0; k < CPT; k++)
#pragma unroll
      for (int s = 0; s < STATES; s++) carried[k * STATES + s] = g[k][s];
#endif
  // The sums over positions that the sharers of a pair of channels hold, added in a fixed order.
  __syncthreads();
  float4* shares = (float4*)&m.across[0][0][0][0][0];
  shares[at * PAIRS + pair_index] = make_float4(dD0, dD1, dbias0, dbias1);
  __syncthreads();
#if SEGMENTS > 1 && !CUT
  if (segment && !tid) tell(a.progress + 1 + unit, before_it + 1);
#endif
  if (at == 0) {
    for (int i = 1; i < ROWS; i++) {
      float4 more = shares[i * PAIRS + pair_index];
      dD0 += more.x, dD1 += more.y, dbias0 += more.z, dbias1 += more.w;
    }
    i64 to = (segment * a.b + row) * a.e + c;
    if (a.dD && real > 0) a.dD[to] = dD0;
    if (a.dD && real > 1) a.dD[to + 1] = dD1;
    if (a.dbias && real > 0) a.dbias[to] = dbias0;
    if (a.dbias && real > 1) a.dbias[to + 1] = dbias1;
  }
}
