// x_proj in partial sums over `SPLITS` parts of its columns: eight outputs and a part a block. Set from outside:
//   BATCH rows (at most 8)   D_INNER   WIDTH outputs (r + 2n)   SPLITS

#define COLUMNS (D_INNER / SPLITS)
#define STEPS (COLUMNS / THREADS)

struct SelectArguments {
  const number* uz;      // (b, 2e): the convolved x, and the gate
  const number* weight;  // (r + 2n, e)
  float* out;            // (splits, b, r + 2n)
  Coming coming;
};

extern "C" __global__ void __launch_bounds__(THREADS, 4) stream_select(const SelectArguments a) {
  launch_dependents();
  const int split = blockIdx.x % SPLITS, tile = blockIdx.x / SPLITS;
  const int g = threadIdx.x % 32 / 4, column = split * COLUMNS + threadIdx.x / 32 * STEPS * 32 + threadIdx.x % 4 * 8;
  float* sums = (float*)memory;
  uint4 w[STEPS], u[STEPS];
#pragma unroll
  for (int i = 0; i < STEPS; i++) w[i] = *(const uint4*)(a.weight + (i64)(tile * 8 + g) * D_INNER + column + i * 32);
  wait_for_kernels();
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    u[i] = make_uint4(0, 0, 0, 0);
    if (g < BATCH) u[i] = fresh((const uint4*)(a.uz + (i64)g * 2 * D_INNER + column + i * 32));
  }
  float total[2][4] = {};
#pragma unroll
  for (int i = 0; i < STEPS; i++) multiply_eight(total, w[i], u[i]);
  leave_totals(sums, total[0][0] + total[1][0], total[0][1] + total[1][1]);
  __syncthreads();
  if (threadIdx.x == THREADS - 32) fetch_coming(a.coming);
  const int row = threadIdx.x / 8;
  if (row < BATCH) a.out[(i64)(split * BATCH + row) * WIDTH + tile * 8 + threadIdx.x % 8] = sum_warps(sums, threadIdx.x);
}
