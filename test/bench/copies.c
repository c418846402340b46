/*
 * The limit beside us: what C does with a ring. For each frame it reads a slot, copies the frame
 * from the guest's page into a staging buffer and writes the answer; it sends nothing anywhere.
 * Usage: copies FRAME_BYTES SECONDS; prints frames per second.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLOTS 256
#define STAGING (64 * 1024)

struct request {
  uint32_t gref;
  uint16_t offset, flags, id, size;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  size_t length = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
  double seconds = argc > 2 ? strtod(argv[2], NULL) : 1;
  struct request *ring = calloc(SLOTS, sizeof *ring);
  uint8_t *pages = malloc(SLOTS * 4096);
  uint8_t *staging = malloc(STAGING + 4096);
  if (!ring || !pages || !staging || length > 4096) return 1;
  memset(pages, 1, SLOTS * 4096);
  uint64_t frames = 0;
  size_t used = 0;
  double start = now(), end = start + seconds;
  do {
    for (int round = 0; round < 64; round++) {
      for (int i = 0; i < SLOTS; i++) ring[i] = (struct request){8 + i, 0, 0, i, length};
      for (int i = 0; i < SLOTS; i++) {
        volatile struct request *slot = &ring[i];
        uint32_t gref = slot->gref;
        uint16_t size = slot->size, id = slot->id;
        if (used + size > STAGING) used = 0;
        memcpy(staging + used, pages + (gref - 8) * 4096, size);
        used += size;
        *(volatile uint32_t *)slot = id;
      }
      frames += SLOTS;
    }
  } while (now() < end);
  printf("%.0f\n", frames / (now() - start));
  return staging[0] == 2;
}
