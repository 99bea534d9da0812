// The RMSNorm of the residual, a row a block. Set from outside:   COLUMNS of a row

#define ROUNDS ((COLUMNS / 4 + THREADS - 1) / THREADS)

struct NormArguments {
  float* residual;           // (b, COLUMNS)
  const number* norm;        // (COLUMNS,)
  const i64* tokens;         // (b,) where the residual begins as the embeddings; else null
  const number* embeddings;  // (v, COLUMNS)
  number* out;               // (b, COLUMNS)
  float eps;
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) stream_norm(const NormArguments a) {
  launch_dependents();
  const i64 row = blockIdx.x;
  float* sums = (float*)memory;
  uint2 weights[ROUNDS];
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    int at = i * THREADS + threadIdx.x;
    if (at < COLUMNS / 4) weights[i] = *((const uint2*)a.norm + at);
  }
  wait_for_kernels();
  float4 v[ROUNDS];
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    int at = i * THREADS + threadIdx.x;
    v[i] = make_float4(0, 0, 0, 0);
    if (at >= COLUMNS / 4) continue;
    v[i] = a.tokens ? wide4(*((const uint2*)(a.embeddings + a.tokens[row] * COLUMNS) + at))
                    : fresh((const float4*)(a.residual + row * COLUMNS) + at);
  }
  float squares = squares_of(v, ROUNDS);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
  __syncthreads();
  const float scale = scale_of(sums, COLUMNS, a.eps);
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    int at = i * THREADS + threadIdx.x;
    if (at < COLUMNS / 4) *((uint2*)(a.out + row * COLUMNS) + at) = scaled(v[i], scale, weights[i]);
  }
}
