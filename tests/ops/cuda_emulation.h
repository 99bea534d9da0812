// Stands in for a CUDA device: a block's threads are fibres on one CPU thread, blocks run one after another.
// Every fibre runs until a barrier or a shuffle, then the next one; a barrier that not all of them reach is an error.
// Two orders of the fibres give the same bits unless a barrier is missing.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <ucontext.h>

#define EMULATED
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index { int x; };
static Index threadIdx, blockIdx;

namespace emulation {
struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  float exchanged[2] = {0, 0};
  int turn = 0;
  const char* waits_at = nullptr;
  bool done = false;
};
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static void (*body)();

static void wait(const char* where) {
  Fibre& self = fibres[threadIdx.x];
  self.waits_at = where;
  swapcontext(&self.context, &scheduler);
}
static int grid;
static void start() {
  body();
  fibres[threadIdx.x].done = true;
  swapcontext(&fibres[threadIdx.x].context, &scheduler);
}
static void fail(const char* text) {
  std::fprintf(stderr, "emulated kernel: %s\n", text);
  std::abort();
}
static void begin_threads(int threads) {
  fibres.assign(threads, Fibre());
  for (Fibre& fibre : fibres) {
    fibre.stack.resize(1 << 17);
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, start, 0);
  }
}
static void run_block(int threads, bool backwards) {
  begin_threads(threads);
  while (!fibres[0].done) {
    for (int i = 0; i < threads; i++) {
      threadIdx.x = backwards ? threads - 1 - i : i;
      swapcontext(&scheduler, &fibres[threadIdx.x].context);
    }
    for (Fibre& fibre : fibres)
      if (fibre.done != fibres[0].done || fibre.waits_at != fibres[0].waits_at) fail("threads part at a barrier");
  }
}
}  // namespace emulation

static inline void __syncthreads() { emulation::wait("syncthreads"); }
static inline void __syncwarp() { emulation::wait("syncwarp"); }
static inline float __shfl_xor_sync(unsigned, float value, int mask) {
  emulation::Fibre& self = emulation::fibres[threadIdx.x];
  int turn = self.turn++ % 2;
  self.exchanged[turn] = value;
  emulation::wait("shuffle");
  return emulation::fibres[threadIdx.x ^ mask].exchanged[turn];
}

static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float exp2_unit(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }
static inline float reciprocal(float x) { return 1.0f / x; }
static inline float half_to_float(unsigned short x) { _Float16 y; std::memcpy(&y, &x, 2); return y; }
static inline unsigned halves(float x, float y) {
  _Float16 both[2] = {(_Float16)x, (_Float16)y};
  unsigned bits;
  std::memcpy(&bits, both, 4);
  return bits;
}
static inline unsigned bfloat(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x) return 0x7fc0;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static inline unsigned bfloats(float x, float y) { return bfloat(x) | bfloat(y) << 16; }
template <int BYTES>
static inline void copy_async(void* to, const void* from) {
  if ((uintptr_t)to % BYTES || (uintptr_t)from % BYTES) emulation::fail("an asynchronous copy is not aligned");
  std::memcpy(to, from, BYTES);
}
static inline void wait_for_copies() {}
static inline int take_ticket(int* counter) { return (*counter)++; }
static inline void tell(int* count, int value) { *count = value; }
static inline void wait_until(const int* count, int value) {
  if (*count < value) emulation::fail("a block waits for one that comes later");
}
