// The backward scan's second pass: every sum over channels or over the batch, from the partial sums of its blocks, each
// added in a fixed order. Beside those of scan_common.cu: SUMS, how many sums there are; the first is rounded to TYPE.

struct Sums {
  const float* from[SUMS]; // (rows, columns)
  void* to[SUMS];          // (columns)
  i64 columns[SUMS];
  int rows[SUMS];
};

extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_sum(const Sums a) {
  i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
#pragma unroll
  for (int k = 0; k < SUMS; k++) {
    if (i >= 0 && i < a.columns[k]) {
      float sum = 0;
#pragma unroll 8
      for (int row = 0; row < a.rows[k]; row++) sum += a.from[k][row * a.columns[k] + i];
      if (k) ((float*)a.to[k])[i] = sum;
      else ((number*)a.to[k])[i] = lower(rounded(sum, 0.0f));
    }
    i -= a.columns[k];
  }
}
