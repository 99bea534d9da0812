// What the kernels of a decoding step of few rows share (stream_*.cu).
//
// Each starts as soon as the one before it has started (programmatic dependent launch), loads what no kernel of the
// step makes, and then waits until the one before it is done, which has waited for the one before that. So while small
// kernels run one after another, the large ones behind them already fill their shared memory with weights.
//
// Numbers are bfloat16, sums float32; rounded where the modules round. Every sum has a fixed order that does not depend
// on BATCH, and which product of a sum is rounded is said (fmaf). Includes nothing, for the run-time compiler;
// `tests/ops/cuda_stream_emulation.h` stands in for the device where EMULATED is defined.

#define THREADS 256
#define WARPS 8
#define STATE 16
#define TAPS 4
#define LOG2E 1.4426950408889634f

typedef unsigned short number;
typedef unsigned int word;
typedef long long i64;
typedef unsigned long long barrier;

extern __shared__ float4 memory[];
#ifndef EMULATED
__device__ __forceinline__ int num_blocks() { return gridDim.x; }
__device__ __forceinline__ word address(const void* shared) { return (word)__cvta_generic_to_shared(shared); }
__device__ __forceinline__ void begin(barrier* full) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(full)) : "memory");
}
__device__ __forceinline__ void begun() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void expect(barrier* full, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(full)), "r"(bytes) : "memory");
}
// A weight is read once, so it is the first to leave the second-level cache.
__device__ __forceinline__ unsigned long long leave_first() {
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// By the copy engine.
__device__ __forceinline__ void fetch(void* shared, const void* global, int bytes, barrier* full) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          address(shared)), "l"(global), "r"(bytes), "r"(address(full)), "l"(leave_first()) : "memory");
}
// Into the second-level cache alone.
__device__ __forceinline__ void fetch_near(const void* global, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(global), "r"(bytes),
               "l"(leave_first()) : "memory");
}
// By this thread, 16 bytes; zeros unless they are real. Without a hint for the second-level cache: CUDA 13's assembler
// loses the policy of such copies, and the device traps.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(shared)), "l"(global), "r"(real ? 16 : 0) : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void wait_for(barrier* full, int parity) {
  word done = 0;
  while (!done)
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(address(full)), "r"(parity) : "memory");
}
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_kernels() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void multiply(float* total, const word* a, const word* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(total[0]), "+f"(total[1]), "+f"(total[2]), "+f"(total[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ word bfloats(float x, float y) {
  word both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
  return both;
}
__device__ __forceinline__ float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// In the order in which it stands: the compiler would ask for all columns at once and run out of registers.
__device__ __forceinline__ uint4 from_shared(const char* at) {
  uint4 w;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "r"(address(at)) : "memory");
  return w;
}
// The same, or zeros; without a branch, for a warp multiplies together.
__device__ __forceinline__ uint4 from_shared_if(bool real, const char* at) {
  uint4 w = make_uint4(0, 0, 0, 0);
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n}"
               : "+r"(w.x), "+r"(w.y), "+r"(w.z), "+r"(w.w) : "r"(address(at)), "r"((word)real) : "memory");
  return w;
}
// Another kernel's results: past the first-level cache, which may hold what stood there a layer ago.
template <typename T>
__device__ __forceinline__ T fresh(const T* at) { return __ldcg(at); }
#endif

__device__ __forceinline__ float4 from_shared_wide(const char* at) {
  uint4 w = from_shared(at);
  return make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w));
}
__device__ __forceinline__ float wide(number x) { return __uint_as_float((word)x << 16); }
__device__ __forceinline__ float low(word x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float high(word x) { return __uint_as_float(x & 0xffff0000u); }
__device__ __forceinline__ number narrow(float x) { return (number)(bfloats(x, 0.0f) & 0xffffu); }
__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float silu(float x) {
  float z = exp2_unit(-fabsf(x) * LOG2E);
  return x * ((x >= 0.0f ? 1.0f : z) / (1.0f + z));
}

// A block's share of `count` things: neighbours, and in order.
__device__ __forceinline__ int share(int count, int block) { return (int)((word)count * block / num_blocks()); }

// total (2, 4) += eight columns of eight rows of a weight, row lane / 4 in w, times those of the rows' numbers x.
// Which column stands for which of a product's is free, if both sides agree.
__device__ __forceinline__ void multiply_eight(float (*total)[4], uint4 w, uint4 x) {
  word p[4] = {w.x, 0, w.y, 0}, q[2] = {x.x, x.y};
  multiply(total[0], p, q);
  word r[4] = {w.z, 0, w.w, 0}, s[2] = {x.z, x.w};
  multiply(total[1], r, s);
}

// Puts a warp's totals where the sums over warps are made: [warp][row][output], eight of each.
__device__ __forceinline__ void leave_totals(float* sums, float first, float second) {
  float* mine = sums + threadIdx.x / 32 * 64 + threadIdx.x % 4 * 16 + threadIdx.x % 32 / 4;
  mine[0] = first;
  mine[8] = second;
}
__device__ __forceinline__ float sum_warps(const float* sums, int at) {
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) sum += sums[warp * 64 + at];
  return sum;
}

// Part of a weight that a later kernel multiplies: of every block's share of its tiles `take` bytes after the first `skip`,
// for the second-level cache.
struct Coming {
  const char* weight;  // or null
  i64 tiles, tile_bytes, blocks, skip, take;
};

__device__ __forceinline__ void fetch_coming(const Coming& c) {
  if (!c.weight) return;
  for (int block = blockIdx.x; block < c.blocks; block += num_blocks()) {
    i64 from = (int)c.tiles * block / (int)c.blocks * c.tile_bytes + c.skip;
    i64 to = (int)c.tiles * (block + 1) / (int)c.blocks * c.tile_bytes;
    if (to > from + c.take) to = from + c.take;
    if (from < to) fetch_near(c.weight + from, (int)(to - from));
  }
}
