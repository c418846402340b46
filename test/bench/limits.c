/*
 * What C does on this machine, the limit beside us: a ring's requests read, the frames copied inline,
 * the answers written, and where wanted the frames sent over TCP as our messages have them, each
 * behind a tag and its length, to another C program that walks them.
 *
 *   limits ring FRAME_BYTES SECONDS      nanoseconds a frame, median over full rings
 *   limits serve FRAME_BYTES|imix        prints a port; sends to who connects
 *   limits walk PORT SECONDS             frames per second that arrive
 *   limits ping MICROSECONDS PROCESSOR   prints a port; sends a frame whenever an event tells of one: every
 *                                        so often, from a thread on that processor
 *   limits pong PORT COUNT               microseconds from event to arrival: p50, p99, p99.9
 *   limits copy FRAME_BYTES SECONDS      two copies a frame: frames per second of processor time
 *   limits relay                         prints a port; sends its input to who connects, as nc does
 *   limits count PORT SECONDS BYTES      frames of so many bytes per second that arrive
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256
#define STAGING (64 * 1024)
#define WARM_UP 0.5

struct request {
  uint32_t gref;
  uint16_t offset, flags, id, size;
};

static struct request ring[SLOTS];
static uint8_t *pages;
static uint8_t staging[STAGING + 8192];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

/* Processor time of this process: what else the machine does counts for nothing. */
static double spent(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

/* Seven frames of 64 bytes, four of 590 and one of 1514: what `length` 0 stands for. */
enum { IMIX_LONGEST = 1514 };
static const uint16_t imix[] = {64, 590, 64, 64, 590, 64, IMIX_LONGEST, 64, 590, 64, 590, 64};

static void produce(size_t length) {
  for (int i = 0; i < SLOTS; i++) {
    ring[i] = (struct request){8 + i, 0, 0, i, length ? length : imix[i % 12]};
  }
}

static inline void copy_inline(uint8_t *to, const uint8_t *from, size_t length) {
  size_t i = 0;
  for (; i + 64 <= length; i += 64) __builtin_memcpy(to + i, from + i, 64);
  for (; i + 8 <= length; i += 8) __builtin_memcpy(to + i, from + i, 8);
  for (; i < length; i++) to[i] = from[i];
}

/* Takes the request at slot i to `place`; returns where it ends. */
static inline uint8_t *consume(int i, uint8_t *place) {
  volatile struct request *slot = &ring[i];
  uint32_t gref = slot->gref;
  uint16_t offset = slot->offset, size = slot->size, id = slot->id;
  *place++ = 0x0a;
  if (size < 128) {
    *place++ = size;
  } else {
    *place++ = (size & 0x7f) | 0x80;
    *place++ = size >> 7;
  }
  copy_inline(place, pages + (gref - 8) * 4096 + offset, size);
  *(volatile uint32_t *)slot = id;
  return place + size;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static int measure_ring(size_t length, double seconds) {
  size_t capacity = 1 << 20, count = 0;
  double *costs = malloc(capacity * sizeof *costs), end = now() + seconds;
  uint8_t *place = staging;
  while (count < capacity) {
    produce(length);
    double start = now();
    if (start > end) break;
    for (int i = 0; i < SLOTS; i++) {
      if (place + length > staging + STAGING) place = staging;
      place = consume(i, place);
    }
    costs[count++] = (now() - start) * 1e9 / SLOTS;
  }
  qsort(costs, count, sizeof *costs, by_value);
  printf("%.3f\n", costs[count / 2]);
  return 0;
}

static int listen_any(void) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1)) exit(1);
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  int connection = accept(listener, NULL, NULL), one = 1;
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return connection;
}

static int serve(size_t length) {
  int connection = listen_any();
  uint8_t *place = staging;
  for (;;) {
    produce(length);
    for (int i = 0; i < SLOTS; i++) {
      place = consume(i, place);
      if (place + (length ? length : IMIX_LONGEST) + 4 <= staging + STAGING) continue;
      for (uint8_t *from = staging; from < place;) {
        ssize_t sent = send(connection, from, place - from, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        from += sent;
      }
      place = staging;
    }
  }
}

static int connect_to(int port) {
  int connection = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  if (connect(connection, (struct sockaddr *)&address, sizeof address)) exit(1);
  return connection;
}

static int walk(int port, double seconds) {
  int connection = connect_to(port);
  static uint8_t buffer[256 * 1024];
  size_t held = 0;
  uint64_t frames = 0, sum = 0;
  double start = now(), from = 0;
  for (;;) {
    ssize_t got = recv(connection, buffer + held, sizeof buffer - held, 0);
    if (got <= 0) return 1;
    held += got;
    size_t at = 0;
    while (at + 3 <= held) {
      size_t length = buffer[at + 1], header = 2;
      if (length >= 128) length = (length & 0x7f) | buffer[at + 2] << 7, header = 3;
      if (at + header + length > held) break;
      sum += buffer[at + header];
      frames++;
      at += header + length;
    }
    memmove(buffer, buffer + at, held - at);
    held -= at;
    double time = now();
    if (from == 0) {
      if (time - start > WARM_UP) from = time, frames = 0;
    } else if (time - from > seconds) {
      printf("%.0f\n", frames / (time - from));
      return sum == 1;
    }
  }
}

static int relay(void) {
  int connection = listen_any();
  static uint8_t buffer[16 * 1024];
  for (ssize_t got; (got = read(0, buffer, sizeof buffer)) > 0;)
    if (send(connection, buffer, got, MSG_NOSIGNAL) <= 0) break;
  return 0;
}

static int count(int port, double seconds, double frame_bytes) {
  int connection = connect_to(port);
  static uint8_t buffer[256 * 1024];
  double bytes = 0, start = now(), from = 0;
  for (ssize_t got; (got = recv(connection, buffer, sizeof buffer, 0)) > 0;) {
    bytes += got;
    double time = now();
    if (from == 0 && time - start > WARM_UP) from = time, bytes = 0;
    if (from == 0 || time - from < seconds) continue;
    printf("%.0f\n", bytes / frame_bytes / (time - from));
    return 0;
  }
  return 1;
}

static int kick;
static int guest_processor;

/* A guest on its processor: every so often one frame with the time in it, and an event. */
static void *kicker(void *interval) {
  cpu_set_t processors;
  CPU_ZERO(&processors);
  CPU_SET(guest_processor, &processors);
  if (sched_setaffinity(0, sizeof processors, &processors)) exit(1);
  uint64_t one = 1;
  for (int i = 0;; i = (i + 1) % SLOTS) {
    usleep(*(long *)interval);
    double time = now();
    memcpy(pages + i * 4096 + 14, &time, sizeof time);
    ring[i] = (struct request){8 + i, 0, 0, i, 64};
    if (write(kick, &one, sizeof one) != sizeof one) return NULL;
  }
}

static int ping(long interval, int processor) {
  guest_processor = processor;
  int connection = listen_any();
  pthread_t thread;
  kick = eventfd(0, 0);
  pthread_create(&thread, NULL, kicker, &interval);
  for (int i = 0;;) {
    struct pollfd wait = {.fd = kick, .events = POLLIN};
    uint64_t events;
    poll(&wait, 1, -1);
    if (read(kick, &events, sizeof events) != sizeof events) return 1;
    uint8_t *end = staging;
    for (; events > 0; events--, i = (i + 1) % SLOTS) end = consume(i, end);
    if (send(connection, staging, end - staging, MSG_NOSIGNAL) <= 0) return 0;
  }
}

static int pong(int port, int count) {
  int connection = connect_to(port);
  double *delays = malloc(count * sizeof *delays);
  for (int i = -2000; i < count; i++) {
    uint8_t frame[66];
    double sent;
    if (recv(connection, frame, sizeof frame, MSG_WAITALL) != sizeof frame) return 1;
    double time = now();
    memcpy(&sent, frame + 16, sizeof sent);
    if (i >= 0) delays[i] = (time - sent) * 1e6;
  }
  qsort(delays, count, sizeof *delays, by_value);
  printf("{\"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f}\n", delays[count / 2],
         delays[count * 99 / 100], delays[count - 1 - count / 1000]);
  return 0;
}

/* What a frame from one guest to another costs at least: into memory of ours, and out of it. */
static int copy_twice(size_t length, double seconds) {
  uint8_t *targets = malloc(SLOTS * 4096);
  memset(targets, 0, SLOTS * 4096);
  uint64_t frames = 0;
  double start = spent(), end = start + seconds;
  do {
    for (int round = 0; round < 512; round++) {
      int at = (round & 7) * 32;
      for (int i = 0; i < 32; i++) memcpy(staging + i * 2048, pages + (at + i) * 4096, length);
      for (int i = 0; i < 32; i++) memcpy(targets + (at + i) * 4096, staging + i * 2048, length);
      frames += 32;
    }
  } while (spent() < end);
  printf("%.0f\n", frames / (spent() - start));
  return targets[0] == 2;
}

int main(int argc, char **argv) {
  if (argc < 2) return 1;
  long first = argc > 2 ? atol(argv[2]) : 64;
  double seconds = argc > 3 ? atof(argv[3]) : 1;
  /* A frame may be longer than its page, and reach into the next ones. */
  pages = malloc((SLOTS + 4) * 4096);
  memset(pages, 1, (SLOTS + 4) * 4096);
  if (!strcmp(argv[1], "ring")) return measure_ring(first, seconds);
  if (!strcmp(argv[1], "serve")) return serve(first);
  if (!strcmp(argv[1], "walk")) return walk(first, seconds);
  if (!strcmp(argv[1], "ping")) return ping(first, argc > 3 ? atoi(argv[3]) : 0);
  if (!strcmp(argv[1], "pong")) return pong(first, argc > 3 ? atoi(argv[3]) : 1000);
  if (!strcmp(argv[1], "relay")) return relay();
  if (!strcmp(argv[1], "count")) return count(first, seconds, argc > 4 ? atof(argv[4]) : 64);
  if (!strcmp(argv[1], "copy")) return copy_twice(first, seconds);
  return 1;
}
