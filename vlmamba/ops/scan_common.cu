// What the forward and the backward kernel of the selective scan share: numbers, loads, sums between lanes.
// The kernels include nothing, so that the run-time compiler needs no header; `tests/ops/cuda_emulation.h` stands in
// for the device where EMULATED is defined. Set from outside:
//   TYPE      0 float32, 1 bfloat16, 2 float16: u, dt, B, C, z, y and their gradients
//   THREADS   of a block        LANES    lanes that share a channel        CPT      channels a thread
//   NPAD      states, padded    VEC      whether pairs of channels lie aligned
//   BCW       1, or 4 where B and C lie so that four states can be read at once
//   SOFTPLUS, HAS_Z, HAS_RESET  what is asked
//   NPOLY     of a lane's states, how many take their exponential from a polynomial

#define STATES (NPAD / LANES)              // states a lane
#define CH (THREADS / LANES * CPT)    // channels a block
#define PAIRS (CH / 2)
#define ROWS (THREADS / PAIRS)        // positions that the block's threads cover, a pair of channels each
#define CHW (32 / LANES * CPT)        // channels a warp
#define WARPS (THREADS / 32)
#define ROWS_BC (THREADS * BCW / (2 * NPAD)) // positions that they cover, BCW values of B or C each
#define CHP (CH + CHW)                // a row's pitch: the rows of a warp's stores fall on different banks
static_assert(THREADS * BCW % (2 * NPAD) == 0, "every thread must bring the same states of B and C in all positions");
// Whether a thread's position lies within `size`, where the threads' positions are `step` apart and start below it.
#define INSIDE(t, size, step) ((size) % (step) == 0 || (t) < (size))
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

typedef long long i64;

#if TYPE == 0
typedef float number;
typedef float2 pair;
#else
typedef unsigned short number;
typedef unsigned int pair;
#endif
// BCW neighbours of B or C as they were read; in pairs, as taking them apart would wait for them.
struct alignas(BCW * sizeof(number)) Group {
#if BCW == 4
  pair x[2];
#else
  number x[1];
#endif
};

#ifndef EMULATED
__device__ __forceinline__ float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float half_to_float(unsigned short x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
// Two floats, rounded, the first in the lower half.
__device__ __forceinline__ unsigned int halves(float x, float y) {
  unsigned int both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
  return both;
}
__device__ __forceinline__ unsigned int bfloats(float x, float y) {
  unsigned int both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
  return both;
}
// Copies BYTES (4, 8 or 16) to shared memory in the background.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  unsigned int to = (unsigned int)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
}
// Between blocks: the next number, and a count that a block raises when it is done, for which another waits.
__device__ __forceinline__ int take_ticket(int* counter) {
  int ticket;
  asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], 1;" : "=r"(ticket) : "l"(counter) : "memory");
  return ticket;
}
__device__ __forceinline__ void tell(int* count, int value) {
  asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.s32 [%0], %1;" ::"l"(count), "r"(value) : "memory");
}
__device__ __forceinline__ void wait_until(const int* count, int value) {
  int found;
  do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(count) : "memory");
  while (found < value);
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

#if TYPE == 0
__device__ __forceinline__ float value(number x) { return x; }
__device__ __forceinline__ float first(pair x) { return x.x; }
__device__ __forceinline__ float second(pair x) { return x.y; }
__device__ __forceinline__ pair pair_of(number x, number y) { return make_float2(x, y); }
__device__ __forceinline__ pair rounded(float x, float y) { return make_float2(x, y); }
__device__ __forceinline__ number lower(pair x) { return x.x; }
__device__ __forceinline__ number upper(pair x) { return x.y; }
#else
#if TYPE == 1
__device__ __forceinline__ float value(number x) { return __uint_as_float((unsigned int)x << 16); }
__device__ __forceinline__ float first(pair x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float second(pair x) { return __uint_as_float(x & 0xffff0000u); }
__device__ __forceinline__ pair rounded(float x, float y) { return bfloats(x, y); }
#else
__device__ __forceinline__ float value(number x) { return half_to_float(x); }
__device__ __forceinline__ float first(pair x) { return half_to_float((number)(x & 0xffffu)); }
__device__ __forceinline__ float second(pair x) { return half_to_float((number)(x >> 16)); }
__device__ __forceinline__ pair rounded(float x, float y) { return halves(x, y); }
#endif
__device__ __forceinline__ pair pair_of(number x, number y) { return (unsigned int)x | (unsigned int)y << 16; }
__device__ __forceinline__ number lower(pair x) { return (number)(x & 0xffffu); }
__device__ __forceinline__ number upper(pair x) { return (number)(x >> 16); }
#endif

// 2^x by a polynomial after range reduction, exact at 0: relative error 1e-7, no special-function unit.
__device__ __forceinline__ float exp2_polynomial(float x) {
  x = fmaxf(x, -126.0f);
  float shifted = x + 12582912.0f; // 1.5 * 2^23: the sum's last bits are the nearest integer
  float f = x - (shifted - 12582912.0f);
  float p = 0.00132646059f;
  p = fmaf(p, f, 0.00967148745f);
  p = fmaf(p, f, 0.0555073381f);
  p = fmaf(p, f, 0.240222425f);
  p = fmaf(p, f, 0.693146978f);
  p = fmaf(p, f, 1.0f);
  return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

// The decay of a lane's state s: some by polynomial, so that both kinds of units are busy.
__device__ __forceinline__ float decay(float x, int s) { return s < NPOLY ? exp2_polynomial(x) : exp2_unit(x); }

// log(1 + exp(x)) to full relative precision, and its derivative, from one exponential.
__device__ __forceinline__ float softplus(float x, float e) { // e = exp(-|x|)
  float p = -0.00853877315f;
  p = fmaf(p, e, 0.0440881042f);
  p = fmaf(p, e, -0.107679607f);
  p = fmaf(p, e, 0.177450973f);
  p = fmaf(p, e, -0.244954122f);
  p = fmaf(p, e, 0.332754713f);
  p = fmaf(p, e, -0.499974049f);
  p = fmaf(p, e, 0.999999806f);
  return fmaf(e, p, fmaxf(x, 0.0f));
}
__device__ __forceinline__ float sigmoid_from(float x, float e) { // e = exp(-|x|)
  float r = reciprocal(1.0f + e);
  return x >= 0.0f ? r : e * r;
}
__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2_unit(-LOG2E * x)); }

// p + t * stride, in bytes.
__device__ __forceinline__ const number* step_to(const number* p, int t, int stride) {
  return (const number*)((const char*)p + (i64)t * stride);
}

// Neighbouring channels at p, the second `next` further on: 0 where there is no second one.
__device__ __forceinline__ pair load_pair(const number* p, int next) {
#if VEC
  return *(const pair*)p;
#else
  return pair_of(p[0], p[next]);
#endif
}
// The first `real` (0, 1 or 2) of two neighbouring channels.
__device__ __forceinline__ void store_pair(number* p, pair x, int real) {
#if VEC
  if (real > 0) *(pair*)p = x;
#else
  if (real > 0) p[0] = lower(x);
  if (real > 1) p[1] = upper(x);
#endif
}
// COUNT neighbouring floats of shared memory in as few loads as they allow.
template <int COUNT>
__device__ __forceinline__ void take(float* to, const float* from) {
  if (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
      float4 v = ((const float4*)from)[i];
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  } else if (COUNT % 2 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++) {
      float2 v = ((const float2*)from)[i];
      to[2 * i] = v.x, to[2 * i + 1] = v.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) to[i] = from[i];
  }
}
template <int COUNT>
__device__ __forceinline__ void put(float* to, const float* from) {
  if (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
      ((float4*)to)[i] = make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]);
  } else if (COUNT % 2 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++) ((float2*)to)[i] = make_float2(from[2 * i], from[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) to[i] = from[i];
  }
}

__device__ __forceinline__ float member(const Group& group, int i) {
#if BCW == 4
  return i % 2 ? second(group.x[i / 2]) : first(group.x[i / 2]);
#else
  return value(group.x[i]);
#endif
}

// BCW values of B or C from index j of (B, C) on, into a row in which each lane finds its B and then its C.
__device__ __forceinline__ void put_group(float* row, int j, Group from, bool real) {
  constexpr int together = BCW < STATES ? BCW : STATES;
  float x[BCW];
#pragma unroll
  for (int i = 0; i < BCW; i++) x[i] = real ? member(from, i) : 0.0f;
#pragma unroll
  for (int i = 0; i < BCW; i += together) {
    int state = j % NPAD + i;
    put<together>(row + state / STATES * 2 * STATES + j / NPAD * STATES + state % STATES, x + i);
  }
}

// LANES values in each of LANES lanes, `spacing` apart: afterwards lane i holds the sum over the lanes of value i.
__device__ __forceinline__ float spread_sum(float* v, int lane, int spacing = 1) {
#pragma unroll
  for (int m = LANES / 2; m >= 1; m /= 2) {
    bool up = lane & m;
#pragma unroll
    for (int i = 0; i < m; i++) {
      float keep = up ? v[i + m] : v[i], give = up ? v[i] : v[i + m];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, give, m * spacing);
    }
  }
  return v[0];
}

// Positions past the end and channels past the last are read from where there are some, and then not used: their
// delta is 0, which leaves a state as it is.
__device__ __forceinline__ int within(int i, int size) { return i < size ? i : size - 1; }

// The kernels' arguments; `cuda_scan._Arguments` mirrors it field by field. Absent tensors are null.
struct Arguments {
  const number *u, *dt, *B, *C, *z;       // (b, l, e), (b, l, n): last stride 1
  const float *A, *D, *dt_bias, *initial_state;    // (e, n), (e,), (e,), (b, e, n), contiguous
  const unsigned char* reset;             // (b, l), contiguous
  number* y;                              // (b, l, e), contiguous, as is every tensor below
  float *last, *saved;                    // (b, e, n); (b, chunks, e, NPAD)
  const number* grad_y;                   // (b, l, e), last stride 1
  const float* grad_last;                 // (b, e, n)
  number *du, *ddt, *dz;                  // (b, l, e), but for dz's pitch
  float *dBC;                             // (blocks, b, l, 2, n)
  float *dA, *dD, *dbias, *dinitial;      // (segments, b, e, n), twice (segments, b, e), (b, e, n)
  float *carried;                         // (b * blocks, THREADS, CPT * STATES); with CUT (segments, b, e, n)
  float *reach;                           // (segments, b, e, n, 2)
  int *progress;                          // (1 + b * blocks): blocks begun; segments done
  i64 u_b, dt_b, B_b, C_b, z_b, grad_y_b;
  int u_l, dt_l, B_l, C_l, z_l, grad_y_l;     // in bytes
  int b, l, e, n, blocks, chunks, dz_pitch; // dz_pitch: between dz's positions, in elements
};
