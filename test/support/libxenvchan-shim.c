/*
 * Grants and event channels for a process that is under no Xen, preloaded in front of libxengnttab and
 * libxenevtchn: what Debian's libxenvchan needs to talk, unchanged, to shared-file-xen.ts. A grant
 * reference is the number of a page in the file memory of XENVIF_SHIM; a port has two FIFOs there, one for
 * each end. XenStore is an emulated one, which libxenstore finds by itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
/* The pages and ports that this process gives out; those before are the other's. */
#define FIRST_REF 512
#define FIRST_PORT 600

static int memory_fd = -1;
static uint32_t next_ref = FIRST_REF;
static int next_port = FIRST_PORT;
static int own_fd = -1, peer_fd = -1, current_port;
static int handle;

static void *notice_page;
static uint32_t notice_offset;

static const char *in_folder(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", getenv("XENVIF_SHIM"), name);
  return path;
}

static void *map_pages(uint32_t count, const uint32_t *refs) {
  if (memory_fd < 0) memory_fd = open(in_folder("memory"), O_RDWR);
  char *start = mmap(NULL, count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return NULL;
  for (uint32_t index = 0; index < count; index++) {
    off_t offset = (off_t)refs[index] * PAGE;
    void *page = mmap(start + index * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                      memory_fd, offset);
    if (page == MAP_FAILED) return NULL;
  }
  return start;
}

static int end_pages(void *start, uint32_t count) {
  if (start == notice_page) {
    ((char *)start)[notice_offset] = 0;
    notice_page = NULL;
    if (peer_fd >= 0 && write(peer_fd, "e", 1) < 0) errno = 0;
  }
  return munmap(start, count * PAGE);
}

void *xengntshr_open(void *logger, unsigned flags) {
  (void)logger, (void)flags;
  return &handle;
}

int xengntshr_close(void *self) {
  (void)self;
  return 0;
}

void *xengntshr_share_pages(void *self, uint32_t domid, int count, uint32_t *refs, int writable) {
  (void)self, (void)domid, (void)writable;
  for (int index = 0; index < count; index++) refs[index] = next_ref++;
  void *start = map_pages(count, refs);
  if (start != NULL) memset(start, 0, (size_t)count * PAGE);
  return start;
}

void *xengntshr_share_page_notify(void *self, uint32_t domid, uint32_t *ref, int writable,
                                  uint32_t offset, uint32_t port) {
  (void)port;
  notice_offset = offset;
  return notice_page = xengntshr_share_pages(self, domid, 1, ref, writable);
}

int xengntshr_unshare(void *self, void *start, uint32_t count) {
  (void)self;
  return end_pages(start, count);
}

void *xengnttab_open(void *logger, unsigned flags) { return xengntshr_open(logger, flags); }

int xengnttab_close(void *self) { return xengntshr_close(self); }

void *xengnttab_map_domain_grant_refs(void *self, uint32_t count, uint32_t domid, uint32_t *refs,
                                      int protection) {
  (void)self, (void)domid, (void)protection;
  return map_pages(count, refs);
}

void *xengnttab_map_grant_ref_notify(void *self, uint32_t domid, uint32_t ref, int protection,
                                     uint32_t offset, uint32_t port) {
  (void)port;
  notice_offset = offset;
  return notice_page = xengnttab_map_domain_grant_refs(self, 1, domid, &ref, protection);
}

int xengnttab_unmap(void *self, void *start, uint32_t count) {
  (void)self;
  return end_pages(start, count);
}

void *xenevtchn_open(void *logger, unsigned flags) { return xengntshr_open(logger, flags); }

int xenevtchn_close(void *self) {
  (void)self;
  close(own_fd);
  close(peer_fd);
  own_fd = peer_fd = -1;
  return 0;
}

int xenevtchn_fd(void *self) {
  (void)self;
  return own_fd;
}

static int open_end(int port, const char *end) {
  char name[64];
  snprintf(name, sizeof name, "port-%d-%s", port, end);
  const char *path = in_folder(name);
  if (mkfifo(path, 0600) != 0 && errno != EEXIST) return -1;
  /* Open both ways: an end that has gone is seen in the page, as under Xen, and not here. */
  return open(path, O_RDWR | O_NONBLOCK);
}

int xenevtchn_bind_unbound_port(void *self, uint32_t domid) {
  (void)self, (void)domid;
  current_port = next_port++;
  own_fd = open_end(current_port, "server");
  peer_fd = open_end(current_port, "client");
  return current_port;
}

int xenevtchn_bind_interdomain(void *self, uint32_t domid, int port) {
  (void)self, (void)domid;
  current_port = port;
  own_fd = open_end(port, "client");
  peer_fd = open_end(port, "server");
  return port;
}

int xenevtchn_unbind(void *self, uint32_t port) {
  (void)self, (void)port;
  return 0;
}

int xenevtchn_unmask(void *self, uint32_t port) {
  (void)self, (void)port;
  return 0;
}

int xenevtchn_notify(void *self, uint32_t port) {
  (void)self, (void)port;
  /* A FIFO that is full has an event in it already. */
  return write(peer_fd, "e", 1) == 1 || errno == EAGAIN ? 0 : -1;
}

int xenevtchn_pending(void *self) {
  (void)self;
  char events[256];
  struct pollfd polled = {.fd = own_fd, .events = POLLIN};
  if (poll(&polled, 1, -1) < 0) return -1;
  return read(own_fd, events, sizeof events) > 0 ? current_port : -1;
}
