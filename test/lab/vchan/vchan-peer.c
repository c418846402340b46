/*
 * A program over Debian's libxenvchan, the peer that ours must get on with:
 *
 *   vchan-peer server|client DOMID PATH [OPTION...]     stdin goes to the vchan, the vchan to stdout
 *   vchan-peer noise SEED BYTES                         prints bytes that look random
 *
 *   ring=BYTES     server: the least size of each ring (0)
 *   chunk=BYTES    how much is written at once (65536); 0 takes every size from 1 byte to 3 rings, again
 *                  and again for the first MiB, and 3 rings from then on
 *   expect=BYTES   ends once stdin has ended, the peer has read everything, and so much has come
 *   packets=1      sends and receives with libxenvchan_send and libxenvchan_recv, 1000 bytes each
 *   echo=1         sends back what comes, in place of stdin
 *   send=SECONDS   sends from memory for so long and prints MB/s, in place of stdin
 *   discard=1      counts what comes and prints MB/s at the end
 *
 * Tells on stderr of its steps, when the talk was over in milliseconds of this day's clock, and what went.
 * Ends with 0 when the peer has closed or all is done, with 2 when something failed.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libxenvchan.h>

#define CHUNK_MAX (4u << 20)
#define EVERY_SIZE_BYTES (1u << 20)
#define PACKET 1000
#define CLIENT_TRIES 1200
#define TRY_US 50000

static struct libxenvchan *ctrl;
static unsigned long long option_ring, option_chunk = 65536, option_expect, option_packets;
static unsigned long long option_echo, option_send, option_discard;
static unsigned long long received, sent;
/* How often nothing came for the longest wait: what a lost event costs. */
static unsigned idle;
static char out[CHUNK_MAX], in[65536];
static size_t out_length, out_done;
static int input_over;

static void fail(const char *what) {
  fprintf(stderr, "failed %s: %s\n", what, strerror(errno));
  exit(2);
}

static double seconds_of(clockid_t clock) {
  struct timespec at;
  clock_gettime(clock, &at);
  return at.tv_sec + at.tv_nsec / 1e9;
}

static double now(void) { return seconds_of(CLOCK_MONOTONIC); }

static void noise(uint64_t state, unsigned long long bytes) {
  static uint64_t words[8192];
  while (bytes > 0) {
    for (size_t index = 0; index < sizeof words / sizeof *words; index++) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      words[index] = state;
    }
    size_t count = bytes < sizeof words ? bytes : sizeof words;
    if (fwrite(words, 1, count, stdout) != count) fail("noise");
    bytes -= count;
  }
  fflush(stdout);
}

static void put_out(const char *data, size_t length) {
  while (length > 0) {
    ssize_t count = write(1, data, length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("stdout");
    data += count;
    length -= count;
  }
}

/* Sizes from 1 byte to 3 rings, in steps that miss no small one. */
static size_t next_chunk(void) {
  static size_t size;
  size_t limit = 3u << ctrl->write.order;
  if (option_packets) return PACKET;
  if (option_chunk != 0) return option_chunk < CHUNK_MAX ? option_chunk : CHUNK_MAX;
  if (sent < EVERY_SIZE_BYTES)
    size = size >= limit ? 1 : size < 64 ? size + 1 : size + size / 16;
  else
    size = limit;
  return size < CHUNK_MAX ? size : CHUNK_MAX;
}

/* Fills the output from stdin. Returns whether there is anything to send. */
static int have_output(void) {
  if (out_done < out_length) return 1;
  if (input_over || option_echo) return 0;
  out_done = 0;
  out_length = next_chunk();
  if (option_send) return 1;
  size_t got = 0;
  while (got < out_length) {
    ssize_t count = read(0, out + got, out_length - got);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("stdin");
    if (count == 0) input_over = 1;
    if (count == 0) break;
    got += count;
    /* A person's or a program's line goes at once; a size that was asked for is gathered. */
    if (option_chunk != 0 && !option_packets) break;
  }
  out_length = got;
  return out_length > 0;
}

/* Returns whether anything was sent. */
static int send_some(void) {
  if (!have_output()) return 0;
  size_t left = out_length - out_done;
  int count = option_packets && left == PACKET ? libxenvchan_send(ctrl, out + out_done, left)
                                               : libxenvchan_write(ctrl, out + out_done, left);
  if (count < 0) return 0;
  out_done += count;
  sent += count;
  return count > 0;
}

/* Returns whether anything was received. */
static int receive_some(void) {
  size_t room = sizeof in;
  if (option_echo && out_done < out_length) return 0;
  int ready = libxenvchan_data_ready(ctrl);
  if (ready <= 0) return 0;
  int count;
  if (option_packets && ready >= PACKET)
    count = libxenvchan_recv(ctrl, in, PACKET);
  else
    count = libxenvchan_read(ctrl, in, room);
  if (count <= 0) return 0;
  received += count;
  if (option_echo) {
    memcpy(out, in, count);
    out_length = count;
    out_done = 0;
  } else if (!option_discard) {
    put_out(in, count);
  }
  return 1;
}

static int is_done(void) {
  if (option_echo || !input_over || out_done < out_length) return 0;
  if (libxenvchan_buffer_space(ctrl) < (1 << ctrl->write.order)) return 0;
  return option_expect != 0 && received >= option_expect;
}

static void wait_for_something(void) {
  struct pollfd polled = {.fd = libxenvchan_fd_for_select(ctrl), .events = POLLIN};
  /* The limit makes up for nothing: it lets `send` see that its time is over. */
  int count = poll(&polled, 1, 200);
  if (count == 0) idle++;
  if (count > 0 && libxenvchan_wait(ctrl) < 0) fail("wait");
}

static void connect_to(const char *role, int domid, const char *path) {
  if (strcmp(role, "server") == 0) {
    ctrl = libxenvchan_server_init(NULL, domid, path, option_ring, option_ring);
  } else {
    for (int tries = 0; ctrl == NULL && tries < CLIENT_TRIES; tries++) {
      ctrl = libxenvchan_client_init(NULL, domid, path);
      if (ctrl == NULL) usleep(TRY_US);
    }
  }
  if (ctrl == NULL) fail(role);
  ctrl->blocking = 0;
  fprintf(stderr, "ready\n");
  while (libxenvchan_is_open(ctrl) == 2) libxenvchan_wait(ctrl);
  fprintf(stderr, "connected\n");
}

static unsigned long long number(const char *text) { return strtoull(text, NULL, 10); }

static void parse(const char *word) {
  const struct {
    const char *name;
    unsigned long long *value;
  } options[] = {{"ring=", &option_ring},     {"chunk=", &option_chunk},
                 {"expect=", &option_expect}, {"packets=", &option_packets},
                 {"echo=", &option_echo},     {"send=", &option_send},
                 {"discard=", &option_discard}};
  for (size_t index = 0; index < sizeof options / sizeof *options; index++) {
    size_t length = strlen(options[index].name);
    if (strncmp(word, options[index].name, length) != 0) continue;
    *options[index].value = number(word + length);
    return;
  }
  fprintf(stderr, "no option: %s\n", word);
  exit(2);
}

static void talk(void) {
  double start = now();
  for (;;) {
    int is_open = libxenvchan_is_open(ctrl);
    int moved = receive_some();
    if (option_send && now() - start > option_send) input_over = 1;
    if (is_open) moved |= send_some();
    if (moved) continue;
    if (!is_open) break;
    if (option_send && input_over && libxenvchan_buffer_space(ctrl) == 1 << ctrl->write.order) break;
    if (is_done()) break;
    wait_for_something();
  }
  double seconds = now() - start;
  fprintf(stderr, "end %.0f\n", seconds_of(CLOCK_REALTIME) * 1000);
  if (option_send) fprintf(stderr, "rate %.2f\n", sent / seconds / 1e6);
  if (option_discard) fprintf(stderr, "rate %.2f\n", received / seconds / 1e6);
  fprintf(stderr, "closed after %llu received and %llu sent, %u times idle\n", received, sent, idle);
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "noise") == 0) {
    noise(number(argv[2]) * 2654435761u + 1, number(argv[3]));
    return 0;
  }
  if (argc < 4) {
    fprintf(stderr, "usage: vchan-peer server|client DOMID PATH [OPTION...]\n");
    return 2;
  }
  for (int index = 4; index < argc; index++) parse(argv[index]);
  connect_to(argv[1], atoi(argv[2]), argv[3]);
  talk();
  libxenvchan_close(ctrl);
  return 0;
}
