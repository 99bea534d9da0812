// Where a step begins: of each row's token, a row a block, the residual, and what the first product takes. Set from
// outside:   COLUMNS of a row   BLOCKS of the device

struct EmbedArguments {
  const i64* tokens;         // (b,)
  const number* embeddings;  // (v, COLUMNS)
  const number* norm;        // (COLUMNS,)
  float* residual;           // (b, COLUMNS)
  number* next;              // (b, COLUMNS): the residual times the norm's weight
  float* squares;            // (b, BLOCKS): of the residual, in sums
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) stream_embed(const EmbedArguments a) {
  launch_dependents();
  wait_for_kernels();
  const i64 row = blockIdx.x, token = a.tokens[row];
  float* sums = (float*)memory;
  float sum = 0.0f;
  for (int at = threadIdx.x; at < COLUMNS; at += THREADS) {
    float x = wide(a.embeddings[token * COLUMNS + at]);
    sum = fmaf(x, x, sum);
    a.residual[row * COLUMNS + at] = x;
    a.next[row * COLUMNS + at] = narrow(x * wide(a.norm[at]));
  }
#pragma unroll
  for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) total += sums[warp];
  for (int at = threadIdx.x; at < BLOCKS; at += THREADS) a.squares[row * BLOCKS + at] = at ? 0.0f : total;
}
