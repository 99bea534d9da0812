// What the kernels of a step of many rows need beside cuda_stream_emulation.h: boxes by the copy engine, and their products.
#pragma once
#include "cuda_stream_emulation.h"

#define __grid_constant__
#define __maxnreg__(...)

// What a test's `tensor_map` writes.
struct alignas(64) Map { const unsigned short* matrix; long long rows, columns, pitch, box_rows, box_columns; char rest[80]; };

static inline char* whole_lines(float4* shared) { return (char*)(((uintptr_t)shared + 1023) / 1024 * 1024); }
static inline void begin(barrier* full, int) { *full = 0; }
static inline void fetch_box(void* shared, const Map* map, int column, int row, barrier* full) {
  if ((uintptr_t)shared % 1024 || (uintptr_t)map->matrix % 16 || map->pitch % 8) emulation::fail("a box is not aligned");
  for (int i = 0; i < map->box_rows; i++)
    for (int j = 0; j < map->box_columns; j++) {
      bool inside = row + i < map->rows && column + j < map->columns;
      unsigned short number = inside ? map->matrix[(row + i) * map->pitch + column + j] : 0;
      std::memcpy((char*)shared + i * 128 + (j * 2 ^ i % 8 * 16), &number, 2);
    }
  settle(full, -(int)(map->box_rows * map->box_columns * 2));
}
static inline void fetch_once(void* shared, const Map* map, int column, int row, barrier* full) {
  fetch_box(shared, map, column, row, full);
}
static inline void prefetch(const void*) {}
static inline void meet_consumers() {
  static int arrived;
  for (int until = (arrived++ / 128 + 1) * 128; arrived < until;) emulation::wait("pause");
}
static inline void release(barrier* empty) {
  if (threadIdx.x % 32) return;
  *empty += 1;
  if ((*empty & 0xffffffffu) == 4) *empty += (1ull << 32) - 4;
}
static inline void multiply_chunk(float (&total)[40], const char* x, const char* w) {
  auto number = [](const char* box, int row, int column) {
    unsigned short bits;
    std::memcpy(&bits, box + row * 128 + (column * 2 ^ row % 8 * 16), 2);
    return __uint_as_float((unsigned)bits << 16);
  };
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int i = 0; i < 40; i++)
    for (int k = 0; k < 64; k++)
      total[i] += number(x, row + i / 2 % 2 * 8, k) * number(w, column + i / 4 * 8 + i % 2, k);
  emulation::wait("product");
}
