// What the kernels of a streamed step need beside cuda_emulation.h: the copy engine, and the tensor cores.
#pragma once
#include "cuda_emulation.h"

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulation {
struct Operands { unsigned a[4], b[2]; };
static std::vector<Operands> operands;

static bool waits_at(const Fibre& fibre, const char* place) {
  return !fibre.done && fibre.waits_at && !std::strcmp(fibre.waits_at, place);
}

// As run_block, but a thread may wait for what another does.
static void run_warps(int threads, bool backwards) {
  begin_threads(threads);
  for (int turns = 0;; turns++) {
    if (turns > 1 << 20) fail("threads wait for each other for ever");
    bool all_at_barrier = true, done = true;
    for (int k = 0; k < threads; k++) {
      all_at_barrier &= waits_at(fibres[k], "syncthreads");
      done &= fibres[k].done;
    }
    if (done) return;
    for (int i = 0; i < threads / 32; i++) {
      int warp = 32 * (backwards ? threads / 32 - 1 - i : i);
      bool together = waits_at(fibres[warp], "syncthreads") ? all_at_barrier : true;
      for (int k = warp; k < warp + 32; k++)
        together &= fibres[k].waits_at == fibres[warp].waits_at && fibres[k].done == fibres[warp].done;
      for (int k = 0; k < 32; k++) {
        threadIdx.x = warp + (backwards ? 31 - k : k);
        Fibre& fibre = fibres[threadIdx.x];
        bool alone = waits_at(fibre, "pause");
        if (!fibre.done && (together || alone)) swapcontext(&scheduler, &fibre.context);
      }
    }
  }
}
}  // namespace emulation
static inline int num_blocks() { return emulation::grid; }

// A barrier holds how many bytes are awaited, and in its upper half how often all had come.
typedef unsigned long long barrier;
static inline void begin(barrier* full) { *full = 0; }
static inline void begun() {}
static inline void settle(barrier* full, int bytes) {
  int left = (int)(*full & 0xffffffffu) + bytes;
  *full = (*full >> 32 << 32) + (left ? 0 : 1ull << 32) + (unsigned)left;
}
static inline void expect(barrier* full, int bytes) { settle(full, bytes); }
static inline void fetch(void* shared, const void* global, int bytes, barrier* full) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes % 16) emulation::fail("a copy is not aligned");
  std::memcpy(shared, global, bytes);
  settle(full, -bytes);
}
static inline void fetch_near(const void* global, int bytes) {
  if ((uintptr_t)global % 16 || bytes % 16 || bytes <= 0) emulation::fail("a copy is not aligned");
  volatile char both = *(const char*)global + ((const char*)global)[bytes - 1];
}
static inline void copy_async(void* shared, const void* global, bool real) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) emulation::fail("a copy is not aligned");
  if (real) std::memcpy(shared, global, 16);
  else std::memset(shared, 0, 16);
}
static inline void wait_for(barrier* full, int parity) {
  while ((int)(*full >> 32) % 2 == parity) emulation::wait("pause");
}
static inline void launch_dependents() {}
static inline void wait_for_kernels() {}
static inline uint4 from_shared(const char* at) { return *(const uint4*)at; }
static inline uint4 from_shared_if(bool real, const char* at) { return real ? *(const uint4*)at : uint4{0, 0, 0, 0}; }
template <typename T>
static inline T fresh(const T* at) { return *at; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// mma.m16n8k16: lane 4 g + t holds rows g and g + 8 of a, column g of b, and of both the columns or rows 2 t.
static inline void multiply(float* total, const unsigned* a, const unsigned* b) {
  using namespace emulation;
  operands.resize(fibres.size());
  std::memcpy(operands[threadIdx.x].a, a, 16);
  std::memcpy(operands[threadIdx.x].b, b, 8);
  wait("operands");
  int warp = threadIdx.x / 32 * 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  auto number = [](unsigned both, int half) { return __uint_as_float(half ? both & 0xffff0000u : both << 16); };
  for (int i = 0; i < 4; i++) {
    int row = g + i / 2 * 8, column = 2 * t + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; k++) {
      auto& of_a = operands[warp + row % 8 * 4 + k % 8 / 2];
      auto& of_b = operands[warp + column * 4 + k % 8 / 2];
      sum += number(of_a.a[row / 8 + k / 8 * 2], k % 2) * number(of_b.b[k / 8], k % 2);
    }
    total[i] += sum;
  }
  wait("product");
}
