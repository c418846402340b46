/*
 * A guest that plays a frontend which breaks the protocol. It connects as an honest one would, does
 * what its arguments say, one after the other, tells what came of it, and closes.
 *
 *   KEY=VALUE        before it connects: a key of the frontend's with another value than it should
 *                    have; @tx, @rx and @ctrl stand for the rings' references, @port for the
 *                    control ring's port; no value removes the key
 *   tx:FIELD,...     writes a TX request: size=, offset=, gref=, id=, the flags more, extra, blank,
 *                    and repeat=
 *   extra:FIELD,...  writes an extra: type=, size= and gso=, or address=, the last byte of a multicast
 *                    address; the flag more, and repeat=
 *   rx:FIELD,...     writes an RX request: gref=, id=, and repeat=
 *   ctrl:FIELD,...   sends a control request, and waits for its answer: type=, a=, b=, c=
 *   push             shows the requests written so far on both rings to the backend, and tells it
 *   txprod:N         as push, but TX's req_prod is N above what was written; N may be negative
 *   rxprod:N         the same of RX
 *   txrsp:N          writes N as TX's rsp_prod, which is the backend's to write
 *   settle           waits for the answers to all that was pushed, or for the backend to leave
 *   storm:N          sends N events for nothing on each channel
 *   state:VALUE      writes that as its state
 *   flap:N           writes N states that make no sense, in no order
 *
 * It prints: "tx ID:STATUS ...", "rx ..." and "ctrl ..." alike, the answers in ring order; "backend
 * STATE", the backend's state before this side closed; "closed" in the end.
 */
#include "frontend.h"

#define SETTLE_MS 8000

static uint32_t tx_written, rx_written, tx_pushed, rx_pushed, ctrl_pushed;

static uint32_t number_of(const char *value) {
  if (strcmp(value, "@tx") == 0) return refs[TX_RING];
  if (strcmp(value, "@rx") == 0) return refs[RX_RING];
  if (strcmp(value, "@ctrl") == 0) return refs[CTRL_RING];
  if (strcmp(value, "@port") == 0) return ctrl_port;
  return strtoul(value, NULL, 0);
}

/* The value of a field in "a=1,b,c=2"; a flag's is 1; `absent` where it is not there. */
static uint32_t field(const char *fields, const char *name, uint32_t absent) {
  char copy[256], *rest = copy, *word;
  snprintf(copy, sizeof copy, "%s", fields);
  while ((word = strsep(&rest, ",")) != NULL) {
    char *value = strchr(word, '=');
    if (value != NULL) *value++ = 0;
    if (strcmp(word, name) == 0) return value == NULL ? 1 : number_of(value);
  }
  return absent;
}

static netif_tx_request_t *next_tx(void) {
  return &tx_ring->ring[tx_written++ % __RING_SIZE(tx_ring, PAGE)].req;
}

static void write_tx(const char *fields) {
  uint32_t id = field(fields, "id", tx_written);
  *next_tx() = (netif_tx_request_t){
    .gref = field(fields, "gref", refs[TX_DATA]),
    .offset = field(fields, "offset", 0),
    .flags = (field(fields, "more", 0) ? NETTXF_more_data : 0) |
             (field(fields, "extra", 0) ? NETTXF_extra_info : 0) |
             (field(fields, "blank", 0) ? NETTXF_csum_blank : 0),
    .id = id,
    .size = field(fields, "size", 60),
  };
}

static void write_extra(const char *fields) {
  netif_extra_info_t extra = {
    .type = field(fields, "type", XEN_NETIF_EXTRA_TYPE_GSO),
    .flags = field(fields, "more", 0) ? XEN_NETIF_EXTRA_FLAG_MORE : 0,
    .u.gso = {.size = field(fields, "size", 1448),
              .type = field(fields, "gso", XEN_NETIF_GSO_TYPE_TCPV4)},
  };
  if (extra.type == XEN_NETIF_EXTRA_TYPE_MCAST_ADD) {
    uint8_t address[6] = {0x01, 0x00, 0x5e, 0, 0, field(fields, "address", 0)};
    memcpy(extra.u.mcast.addr, address, sizeof address);
  }
  memset(next_tx(), 0, sizeof(netif_tx_request_t));
  memcpy(&tx_ring->ring[(tx_written - 1) % __RING_SIZE(tx_ring, PAGE)], &extra, sizeof extra);
}

static void write_rx(const char *fields) {
  uint32_t buffer = rx_written % RX_BUFFERS;
  rx_ring->ring[rx_written % __RING_SIZE(rx_ring, PAGE)].req = (netif_rx_request_t){
    .id = field(fields, "id", rx_written),
    .gref = field(fields, "gref", refs[RX_DATA + buffer]),
  };
  rx_written += 1;
}

static void push(int32_t tx_beyond, int32_t rx_beyond) {
  __sync_synchronize();
  tx_ring->req_prod = tx_written + tx_beyond;
  rx_ring->req_prod = rx_written + rx_beyond;
  __sync_synchronize();
  tx_pushed = tx_written;
  rx_pushed = rx_written;
  notify(tx_port);
  notify(rx_port);
}

static void settle(void) {
  for (int waited = 0; waited < SETTLE_MS * 1000; waited += POLL_US) {
    __sync_synchronize();
    int answered = tx_ring->rsp_prod == tx_pushed && rx_ring->rsp_prod == rx_pushed;
    /* A req_prod that is not what was written has no answer but the backend's leaving. */
    int honest = tx_ring->req_prod == tx_written && rx_ring->req_prod == rx_written;
    if ((answered && honest) || backend_state() != CONNECTED) return;
    usleep(POLL_US);
  }
}

static void control(const char *fields) {
  ctrl_ring->ring[ctrl_pushed % __RING_SIZE(ctrl_ring, PAGE)].req = (struct xen_netif_ctrl_request){
    .id = ctrl_pushed,
    .type = field(fields, "type", 0),
    .data = {field(fields, "a", 0), field(fields, "b", 0), field(fields, "c", 0)},
  };
  __sync_synchronize();
  ctrl_ring->req_prod = ++ctrl_pushed;
  __sync_synchronize();
  notify(ctrl_port);
  for (int waited = 0; waited < SETTLE_MS * 1000; waited += POLL_US) {
    __sync_synchronize();
    if (ctrl_ring->rsp_prod == ctrl_pushed) return;
    usleep(POLL_US);
  }
}

static void flap(int count) {
  static const char *const states[] = {"1", "99", "4", "", "6", "4 x", "2", "-1", "5", "0x4"};
  for (int index = 0; index < count; index++) {
    store_write("device/vif/0/state", states[(index * 7) % 10]);
  }
}

static void act(const char *word) {
  char name[16] = "";
  const char *colon = strchr(word, ':');
  const char *rest = colon == NULL ? "" : colon + 1;
  snprintf(name, sizeof name, "%.*s", (int)strcspn(word, ":"), word);
  for (uint32_t left = field(rest, "repeat", 1); left > 0; left--) {
    if (strcmp(name, "tx") == 0) write_tx(rest);
    if (strcmp(name, "extra") == 0) write_extra(rest);
    if (strcmp(name, "rx") == 0) write_rx(rest);
  }
  if (strcmp(name, "ctrl") == 0) control(rest);
  if (strcmp(name, "push") == 0) push(0, 0);
  if (strcmp(name, "txprod") == 0) push(atoi(rest), 0);
  if (strcmp(name, "rxprod") == 0) push(0, atoi(rest));
  if (strcmp(name, "txrsp") == 0) tx_ring->rsp_prod = atoi(rest);
  if (strcmp(name, "settle") == 0) settle();
  if (strcmp(name, "state") == 0) store_write("device/vif/0/state", rest);
  if (strcmp(name, "flap") == 0) flap(atoi(rest));
  for (int left = strcmp(name, "storm") == 0 ? atoi(rest) : 0; left > 0; left--) {
    notify(tx_port);
    notify(rx_port);
  }
}

/* A frame of a type for local experiments, from an address of no card to everybody. */
static void fill_frame(void) {
  static const uint8_t header[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x16,
                                   0x3e, 0x66, 0x66, 0x66, 0x88, 0xb5};
  for (int index = 0; index < PAGE; index++) pages[TX_DATA * PAGE + index] = index;
  memcpy(pages + TX_DATA * PAGE, header, sizeof header);
}

static void write_key(const char *word) {
  char path[256], key[200], value[16];
  size_t length = strcspn(word, "=");
  snprintf(key, sizeof key, "%.*s", (int)length, word);
  node_of(path, key);
  const char *given = word + length + 1;
  if (*given == 0) {
    store_remove(path);
    return;
  }
  snprintf(value, sizeof value, "%u", number_of(given));
  store_write(path, *given == '@' ? value : given);
}

/* A word of the form KEY=VALUE; those that are done have their "=" behind a colon. */
static int is_key(const char *word) { return word[strcspn(word, "=:")] == '='; }

static void report(void) {
  __sync_synchronize();
  printf("tx");
  for (uint32_t at = 0; at != tx_ring->rsp_prod && at < 1024; at++) {
    netif_tx_response_t *answer = &tx_ring->ring[at % __RING_SIZE(tx_ring, PAGE)].rsp;
    printf(" %u:%d", answer->id, answer->status);
  }
  printf("\nrx");
  for (uint32_t at = 0; at != rx_ring->rsp_prod && at < 1024; at++) {
    netif_rx_response_t *answer = &rx_ring->ring[at % __RING_SIZE(rx_ring, PAGE)].rsp;
    printf(" %u:%d", answer->id, answer->status);
  }
  printf("\nctrl");
  for (uint32_t at = 0; at != ctrl_ring->rsp_prod && at < 64; at++) {
    struct xen_netif_ctrl_response *answer =
      &ctrl_ring->ring[at % __RING_SIZE(ctrl_ring, PAGE)].rsp;
    printf(" %u:%u", answer->id, answer->status);
  }
  printf("\nbackend %d\n", backend_state());
}

int main(int count, char **words) {
  int refused = 0;
  open_frontend();
  fill_frame();
  start_anew();
  write_keys();
  for (int index = 1; index < count; index++) {
    if (!is_key(words[index])) continue;
    write_key(words[index]);
    refused = 1;
  }
  set_state(CONNECTED);
  if (!wait_backend(refused ? INIT_WAIT : CONNECTED, refused, 20000)) fail("connect");
  for (int index = 1; index < count; index++) {
    if (!is_key(words[index])) act(words[index]);
  }
  report();
  close_frontend();
  printf("closed\n");
  return 0;
}
