/*
 * A network frontend by hand, in a guest without a driver: XenStore by /dev/xen/xenbus, pages granted
 * by /dev/xen/gntalloc, ports by /dev/xen/evtchn, and the layouts of Xen's own netif.h. It checks
 * nothing that a backend must check; whatever fails on this side ends the program with exit code 2.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xen/io/netif.h>
#include <xen/io/xs_wire.h>
#include <xen/sys/evtchn.h>
#include <xen/sys/gntalloc.h>

#define PAGE 4096
/* The rings, one page of frames that are sent, and one for each buffer that is posted. */
#define TX_RING 0
#define RX_RING 1
#define CTRL_RING 2
#define TX_DATA 3
#define RX_DATA 4
#define RX_BUFFERS 16
#define PAGES (RX_DATA + RX_BUFFERS)
#define POLL_US 20000

enum { INITIALISING = 1, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED };

static int xenbus_fd, gntalloc_fd, evtchn_fd;
static char backend_path[256];
static uint32_t backend_domid;
static uint32_t refs[PAGES];
static char *pages;
static netif_tx_sring_t *tx_ring;
static netif_rx_sring_t *rx_ring;
static struct xen_netif_ctrl_sring *ctrl_ring;
static uint32_t tx_port, rx_port, ctrl_port;

static void fail(const char *what) {
  printf("failed %s: %s\n", what, strerror(errno));
  exit(2);
}

static void all_of(ssize_t (*move)(int, void *, size_t), void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t count = move(xenbus_fd, (char *)data + done, bytes - done);
    if (count <= 0) fail("xenbus");
    done += count;
  }
}

static ssize_t put(int fd, void *data, size_t bytes) { return write(fd, data, bytes); }

/* One request to XenStore; the answer's length, or -1 for an error, whose name is the answer. */
static int store(uint32_t type, const char *body, uint32_t bytes, char *answer, uint32_t room) {
  struct xsd_sockmsg header = {.type = type, .req_id = 1, .tx_id = 0, .len = bytes};
  all_of(put, &header, sizeof header);
  all_of(put, (void *)body, bytes);
  all_of(read, &header, sizeof header);
  if (header.len >= room) fail("an answer of XenStore that is too long");
  all_of(read, answer, header.len);
  answer[header.len] = 0;
  return header.type == XS_ERROR ? -1 : (int)header.len;
}

static int store_read(const char *path, char *value, uint32_t room) {
  return store(XS_READ, path, strlen(path) + 1, value, room);
}

/* Paths that do not begin with a slash are this domain's own. */
static void store_write(const char *path, const char *value) {
  char body[4096], answer[64];
  int at = snprintf(body, sizeof body, "%s", path) + 1;
  int bytes = snprintf(body + at, sizeof body - at, "%s", value);
  if (store(XS_WRITE, body, at + bytes, answer, sizeof answer) < 0) fail(path);
}

static void store_write_number(const char *path, uint32_t value) {
  char text[16];
  snprintf(text, sizeof text, "%u", value);
  store_write(path, text);
}

static void store_remove(const char *path) {
  char answer[64];
  /* What is not there need not be removed. */
  store(XS_RM, path, strlen(path) + 1, answer, sizeof answer);
}

static void node_of(char *path, const char *key) { sprintf(path, "device/vif/0/%.200s", key); }

static void set_state(int state) { store_write_number("device/vif/0/state", state); }

static int backend_state(void) {
  char path[300], value[64];
  snprintf(path, sizeof path, "%s/state", backend_path);
  return store_read(path, value, sizeof value) < 0 ? 0 : atoi(value);
}

/* Waits until the backend is in the state, or in any other than it where `other` is set. */
static int wait_backend(int state, int other, int ms) {
  for (int waited = 0; waited < ms * 1000; waited += POLL_US) {
    if ((backend_state() == state) != other) return 1;
    usleep(POLL_US);
  }
  return 0;
}

static uint32_t unbound_port(void) {
  struct ioctl_evtchn_bind_unbound_port bind = {.remote_domain = backend_domid};
  int port = ioctl(evtchn_fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &bind);
  if (port < 0) fail("bind an event channel");
  return port;
}

static void notify(uint32_t port) {
  struct ioctl_evtchn_notify event = {.port = port};
  if (ioctl(evtchn_fd, IOCTL_EVTCHN_NOTIFY, &event) < 0) fail("notify");
}

static void grant_pages(void) {
  union {
    struct ioctl_gntalloc_alloc_gref request;
    char room[sizeof(struct ioctl_gntalloc_alloc_gref) + PAGES * sizeof(uint32_t)];
  } alloc = {.request = {
               .domid = backend_domid, .flags = GNTALLOC_FLAG_WRITABLE, .count = PAGES}};
  if (ioctl(gntalloc_fd, IOCTL_GNTALLOC_ALLOC_GREF, &alloc) < 0) fail("grant pages");
  memcpy(refs, (char *)&alloc + offsetof(struct ioctl_gntalloc_alloc_gref, gref_ids), sizeof refs);
  pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, gntalloc_fd,
               alloc.request.index);
  if (pages == MAP_FAILED) fail("map the pages");
  memset(pages, 0, PAGES * PAGE);
  tx_ring = (netif_tx_sring_t *)(pages + TX_RING * PAGE);
  rx_ring = (netif_rx_sring_t *)(pages + RX_RING * PAGE);
  SHARED_RING_INIT(tx_ring);
  ctrl_ring = (struct xen_netif_ctrl_sring *)(pages + CTRL_RING * PAGE);
  SHARED_RING_INIT(rx_ring);
  SHARED_RING_INIT(ctrl_ring);
}

/* Has the backend forget what was, and waits for its offer. */
static void start_anew(void) {
  if (backend_state() != INIT_WAIT) {
    set_state(CLOSED);
    if (!wait_backend(CLOSED, 0, 20000)) fail("the backend does not close");
    set_state(INITIALISING);
  }
  if (!wait_backend(INIT_WAIT, 0, 20000)) fail("the backend makes no offer");
}

static void open_frontend(void) {
  char value[64];
  xenbus_fd = open("/dev/xen/xenbus", O_RDWR);
  gntalloc_fd = open("/dev/xen/gntalloc", O_RDWR);
  evtchn_fd = open("/dev/xen/evtchn", O_RDWR);
  if (xenbus_fd < 0 || gntalloc_fd < 0 || evtchn_fd < 0) fail("open the devices");
  if (store_read("device/vif/0/backend", backend_path, sizeof backend_path) < 0) fail("backend");
  if (store_read("device/vif/0/backend-id", value, sizeof value) < 0) fail("backend-id");
  backend_domid = atoi(value);
  grant_pages();
  tx_port = unbound_port();
  rx_port = unbound_port();
  ctrl_port = unbound_port();
}

/* What an honest frontend of one queue writes; what an earlier run wrote beside it goes. */
static void write_keys(void) {
  static const char *const others[] = {"multi-queue-num-queues", "event-channel", "ctrl-ring-ref",
                                       "event-channel-ctrl"};
  for (size_t index = 0; index < sizeof others / sizeof *others; index++) {
    char path[256];
    node_of(path, others[index]);
    store_remove(path);
  }
  store_write_number("device/vif/0/tx-ring-ref", refs[TX_RING]);
  store_write_number("device/vif/0/rx-ring-ref", refs[RX_RING]);
  store_write_number("device/vif/0/event-channel-tx", tx_port);
  store_write_number("device/vif/0/event-channel-rx", rx_port);
  store_write_number("device/vif/0/request-rx-copy", 1);
  store_write_number("device/vif/0/feature-rx-notify", 1);
  store_write_number("device/vif/0/feature-sg", 1);
}

static void close_frontend(void) {
  set_state(CLOSING);
  wait_backend(CONNECTED, 1, 5000);
  set_state(CLOSED);
  if (!wait_backend(CLOSED, 0, 20000)) fail("the backend does not close in the end");
}
