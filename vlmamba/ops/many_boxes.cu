// Boxes of a matrix by the copy engine, in the layout that the tensor cores read, and their products (many_product.cu).
//
// A box is 64 columns of some rows: lines of 128 bytes, in which the sixteens of bytes are swapped by the line's number,
// modulo 8, so that eight lines are read without a conflict. It begins at a multiple of 1024 bytes.

#ifndef EMULATED
struct alignas(64) Map { char bytes[128]; };  // CUtensorMap

__device__ __forceinline__ char* whole_lines(float4* shared) {
  return (char*)shared + (-address(shared) & 1023u);
}
__device__ __forceinline__ void begin(barrier* full, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(full)), "r"(count) : "memory");
}
__device__ __forceinline__ void fetch_box(void* shared, const Map* map, int column, int row, barrier* full) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                   address(shared)), "l"(map), "r"(column), "r"(row), "r"(address(full)) : "memory");
}
// A weight is read once, so it is the first to leave the second-level cache.
__device__ __forceinline__ void fetch_once(void* shared, const Map* map, int column, int row, barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::
          "r"(address(shared)), "l"(map), "r"(column), "r"(row), "r"(address(full)), "l"(leave_first()) : "memory");
}
__device__ __forceinline__ void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
// Of the four warps that multiply.
__device__ __forceinline__ void meet_consumers() { asm volatile("bar.sync 1, 128;" ::: "memory"); }
// This warp is done with a place of the ring.
__device__ __forceinline__ void release(barrier* empty) {
  if (threadIdx.x % 32 == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(empty)) : "memory");
}
// Says how a box lies: groups of eight lines one behind the other, swapped as above.
__device__ __forceinline__ unsigned long long layout(const char* box) {
  return ((address(box) & 0x3ffffull) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
// The sums stand where they are before and after.
__device__ __forceinline__ void settled(float (&total)[40]) {
#pragma unroll
  for (int i = 0; i < 40; i++) asm volatile("" : "+f"(total[i])::"memory");
}
#define FIVE(i) "+f"(total[i]), "+f"(total[i + 1]), "+f"(total[i + 2]), "+f"(total[i + 3]), "+f"(total[i + 4])
// total (64, 80) += x (64, 64) times w (80, 64) transposed, by four warps: lane 4 g + t of warp i holds in
// total[4 j + 2 h + c] row 16 i + 8 h + g of x and row 8 j + 2 t + c of w.
__device__ __forceinline__ void multiply_chunk(float (&total)[40], const char* x, const char* w) {
  const unsigned long long of_x = layout(x), of_w = layout(w);
  settled(total);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int step = 0; step < 4; step++)
    asm volatile(
        "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, "
        "%39}, %40, %41, p, 1, 1, 0, 0;\n}"
        : FIVE(0), FIVE(5), FIVE(10), FIVE(15), FIVE(20), FIVE(25), FIVE(30), FIVE(35)
        : "l"(of_x + step * 2), "l"(of_w + step * 2));
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  settled(total);
}
#endif
