/*
 * Prints, as JSON, the sizes, offsets and constants that xenvif relies on, taken by the compiler
 * from Xen's own public headers. test/golden/xen-headers.json is this program's output, and
 * test/golden/xen-headers.test.ts holds that it still is.
 *
 * The headers that libxen-dev installs call the flags NETTXF_x, NETRXF_x and NETIF_RSP_x; Linux'
 * copy of the same header, and this project, put XEN_ before them. Of each struct, "size" is its
 * own size in bytes; the field `size` of netif_tx_request is therefore printed as "length".
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <xen/event_channel.h>
#include <xen/grant_table.h>
#include <xen/io/libxenvchan.h>
#include <xen/io/netif.h>
#include <xen/io/ring.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>
#include <xen/sys/gntalloc.h>
#include <xen/sys/gntdev.h>
#include <xengnttab.h>

#define PAGE_SIZE 4096

static const char *separator = "";

#define OPEN(name, ...)                                                                          \
  printf("%s\n  \"%s\": {\"size\": %zu", separator, name, (size_t)(__VA_ARGS__)), separator = ","
#define FIELD(type, field) printf(", \"" #field "\": %zu", offsetof(type, field))
#define FIELD_AS(type, field, name) printf(", \"" name "\": %zu", offsetof(type, field))
#define VALUE(name, value) printf(", \"" name "\": %lld", (long long)(value))
#define CLOSE() printf("}")

static const char *constant_separator = "";
#define CONSTANT_AS(name, value)                                                                 \
  printf("%s\n    \"" name "\": %lld", constant_separator, (long long)(value)),                  \
      constant_separator = ","
#define CONSTANT(name) CONSTANT_AS(#name, name)
#define XEN_CONSTANT(name) CONSTANT_AS("XEN_" #name, name)

static void netif(void) {
  OPEN("netif_tx_request", sizeof(struct netif_tx_request));
  FIELD(struct netif_tx_request, gref);
  FIELD(struct netif_tx_request, offset);
  FIELD(struct netif_tx_request, flags);
  FIELD(struct netif_tx_request, id);
  FIELD_AS(struct netif_tx_request, size, "length");
  CLOSE();
  OPEN("netif_tx_response", sizeof(struct netif_tx_response));
  FIELD(struct netif_tx_response, id);
  FIELD(struct netif_tx_response, status);
  CLOSE();
  OPEN("netif_rx_request", sizeof(struct netif_rx_request));
  FIELD(struct netif_rx_request, id);
  FIELD(struct netif_rx_request, gref);
  CLOSE();
  OPEN("netif_rx_response", sizeof(struct netif_rx_response));
  FIELD(struct netif_rx_response, id);
  FIELD(struct netif_rx_response, offset);
  FIELD(struct netif_rx_response, flags);
  FIELD(struct netif_rx_response, status);
  CLOSE();
  OPEN("netif_extra_info", sizeof(struct netif_extra_info));
  FIELD(struct netif_extra_info, type);
  FIELD(struct netif_extra_info, flags);
  FIELD(struct netif_extra_info, u.gso.size);
  FIELD(struct netif_extra_info, u.gso.type);
  FIELD(struct netif_extra_info, u.gso.pad);
  FIELD(struct netif_extra_info, u.gso.features);
  FIELD(struct netif_extra_info, u.mcast.addr);
  FIELD(struct netif_extra_info, u.hash.type);
  FIELD(struct netif_extra_info, u.hash.algorithm);
  FIELD(struct netif_extra_info, u.hash.value);
  CLOSE();
  OPEN("netif_ctrl_request", sizeof(struct xen_netif_ctrl_request));
  FIELD(struct xen_netif_ctrl_request, id);
  FIELD(struct xen_netif_ctrl_request, type);
  FIELD(struct xen_netif_ctrl_request, data);
  CLOSE();
  OPEN("netif_ctrl_response", sizeof(struct xen_netif_ctrl_response));
  FIELD(struct xen_netif_ctrl_response, id);
  FIELD(struct xen_netif_ctrl_response, type);
  FIELD(struct xen_netif_ctrl_response, status);
  FIELD(struct xen_netif_ctrl_response, data);
  CLOSE();
  OPEN("netif_gref", sizeof(struct xen_netif_gref));
  FIELD(struct xen_netif_gref, ref);
  FIELD(struct xen_netif_gref, flags);
  FIELD(struct xen_netif_gref, status);
  CLOSE();
}

/* `size` is of the struct that declares one entry; `entries` is what a whole page holds. */
#define SHARED_RING(name, type, prefix)                                                          \
  OPEN(name, sizeof(struct type));                                                               \
  FIELD(struct type, req_prod);                                                                  \
  FIELD(struct type, req_event);                                                                 \
  FIELD(struct type, rsp_prod);                                                                  \
  FIELD(struct type, rsp_event);                                                                 \
  FIELD(struct type, ring);                                                                      \
  VALUE("entry_size", sizeof(((struct type *)0)->ring[0]));                                      \
  VALUE("entries", __CONST_RING_SIZE(prefix, PAGE_SIZE));                                        \
  CLOSE()

static void rings(void) {
  SHARED_RING("netif_tx_sring", netif_tx_sring, netif_tx);
  SHARED_RING("netif_rx_sring", netif_rx_sring, netif_rx);
  SHARED_RING("netif_ctrl_sring", xen_netif_ctrl_sring, xen_netif_ctrl);
}

static void vchan(void) {
  OPEN("ring_shared", sizeof(struct ring_shared));
  FIELD(struct ring_shared, cons);
  FIELD(struct ring_shared, prod);
  CLOSE();
  OPEN("vchan_interface", sizeof(struct vchan_interface));
  FIELD(struct vchan_interface, left);
  FIELD(struct vchan_interface, right);
  FIELD(struct vchan_interface, left.cons);
  FIELD(struct vchan_interface, left.prod);
  FIELD(struct vchan_interface, right.cons);
  FIELD(struct vchan_interface, right.prod);
  FIELD(struct vchan_interface, left_order);
  FIELD(struct vchan_interface, right_order);
  FIELD(struct vchan_interface, cli_live);
  FIELD(struct vchan_interface, srv_live);
  FIELD(struct vchan_interface, cli_notify);
  FIELD(struct vchan_interface, srv_notify);
  FIELD(struct vchan_interface, grants);
  CLOSE();
}

#define COPY_SEGMENT(name, type)                                                                 \
  OPEN(name, sizeof(struct type));                                                               \
  FIELD(struct type, source.virt);                                                               \
  FIELD(struct type, source.foreign.ref);                                                        \
  FIELD(struct type, source.foreign.offset);                                                     \
  FIELD(struct type, source.foreign.domid);                                                      \
  FIELD(struct type, dest.virt);                                                                 \
  FIELD(struct type, dest.foreign.ref);                                                          \
  FIELD(struct type, dest.foreign.offset);                                                       \
  FIELD(struct type, dest.foreign.domid);                                                        \
  FIELD(struct type, len);                                                                       \
  FIELD(struct type, flags);                                                                     \
  FIELD(struct type, status);                                                                    \
  CLOSE()

static void grants(void) {
  COPY_SEGMENT("xengnttab_grant_copy_segment", xengnttab_grant_copy_segment);
  COPY_SEGMENT("ioctl_gntdev_grant_copy_segment", ioctl_gntdev_grant_copy_segment);
  OPEN("grant_entry_v1", sizeof(grant_entry_v1_t));
  FIELD(grant_entry_v1_t, flags);
  FIELD(grant_entry_v1_t, domid);
  FIELD(grant_entry_v1_t, frame);
  CLOSE();
}

static void xenstore(void) {
  OPEN("xsd_sockmsg", sizeof(struct xsd_sockmsg));
  FIELD(struct xsd_sockmsg, type);
  FIELD(struct xsd_sockmsg, req_id);
  FIELD(struct xsd_sockmsg, tx_id);
  FIELD(struct xsd_sockmsg, len);
  CLOSE();
  OPEN("xenstore_domain_interface", sizeof(struct xenstore_domain_interface));
  FIELD(struct xenstore_domain_interface, req);
  FIELD(struct xenstore_domain_interface, rsp);
  FIELD(struct xenstore_domain_interface, req_cons);
  FIELD(struct xenstore_domain_interface, req_prod);
  FIELD(struct xenstore_domain_interface, rsp_cons);
  FIELD(struct xenstore_domain_interface, rsp_prod);
  FIELD(struct xenstore_domain_interface, server_features);
  FIELD(struct xenstore_domain_interface, connection);
  FIELD(struct xenstore_domain_interface, error);
  CLOSE();
}

static void netif_constants(void) {
  XEN_CONSTANT(NETTXF_csum_blank);
  XEN_CONSTANT(NETTXF_data_validated);
  XEN_CONSTANT(NETTXF_more_data);
  XEN_CONSTANT(NETTXF_extra_info);
  XEN_CONSTANT(NETRXF_data_validated);
  XEN_CONSTANT(NETRXF_csum_blank);
  XEN_CONSTANT(NETRXF_more_data);
  XEN_CONSTANT(NETRXF_extra_info);
  XEN_CONSTANT(NETRXF_gso_prefix);
  XEN_CONSTANT(NETIF_RSP_DROPPED);
  XEN_CONSTANT(NETIF_RSP_ERROR);
  XEN_CONSTANT(NETIF_RSP_OKAY);
  XEN_CONSTANT(NETIF_RSP_NULL);
  CONSTANT(XEN_NETIF_NR_SLOTS_MIN);
  CONSTANT(XEN_NETIF_MAX_TX_SIZE);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_NONE);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_GSO);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_MCAST_ADD);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_MCAST_DEL);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_HASH);
  CONSTANT(XEN_NETIF_EXTRA_TYPE_MAX);
  CONSTANT(XEN_NETIF_EXTRA_FLAG_MORE);
  CONSTANT(XEN_NETIF_GSO_TYPE_NONE);
  CONSTANT(XEN_NETIF_GSO_TYPE_TCPV4);
  CONSTANT(XEN_NETIF_GSO_TYPE_TCPV6);
}

static void control_constants(void) {
  CONSTANT(XEN_NETIF_CTRL_HASH_TYPE_IPV4);
  CONSTANT(XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP);
  CONSTANT(XEN_NETIF_CTRL_HASH_TYPE_IPV6);
  CONSTANT(XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP);
  CONSTANT(XEN_NETIF_CTRL_HASH_ALGORITHM_NONE);
  CONSTANT(XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ);
  CONSTANT(XEN_NETIF_CTRL_TYPE_INVALID);
  CONSTANT(XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS);
  CONSTANT(XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS);
  CONSTANT(XEN_NETIF_CTRL_TYPE_SET_HASH_KEY);
  CONSTANT(XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE);
  CONSTANT(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE);
  CONSTANT(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING);
  CONSTANT(XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM);
  CONSTANT(XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE);
  CONSTANT(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING);
  CONSTANT(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING);
  CONSTANT(XEN_NETIF_CTRL_STATUS_SUCCESS);
  CONSTANT(XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED);
  CONSTANT(XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER);
  CONSTANT(XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW);
}

static void grant_constants(void) {
  CONSTANT(GNTST_okay);
  CONSTANT(GNTST_general_error);
  CONSTANT(GNTST_bad_domain);
  CONSTANT(GNTST_bad_gntref);
  CONSTANT(GNTST_bad_handle);
  CONSTANT(GNTST_bad_virt_addr);
  CONSTANT(GNTST_bad_dev_addr);
  CONSTANT(GNTST_no_device_space);
  CONSTANT(GNTST_permission_denied);
  CONSTANT(GNTST_bad_page);
  CONSTANT(GNTST_bad_copy_arg);
  CONSTANT(GNTST_address_too_big);
  CONSTANT(GNTST_eagain);
  CONSTANT(GNTST_no_space);
  CONSTANT(GNTCOPY_source_gref);
  CONSTANT(GNTCOPY_dest_gref);
  CONSTANT(GNTTAB_NR_RESERVED_ENTRIES);
  CONSTANT(DOMID_SELF);
  CONSTANT(DOMID_FIRST_RESERVED);
  CONSTANT(VCHAN_NOTIFY_WRITE);
  CONSTANT(VCHAN_NOTIFY_READ);
}

static void xenbus_constants(void) {
  CONSTANT(XenbusStateUnknown);
  CONSTANT(XenbusStateInitialising);
  CONSTANT(XenbusStateInitWait);
  CONSTANT(XenbusStateInitialised);
  CONSTANT(XenbusStateConnected);
  CONSTANT(XenbusStateClosing);
  CONSTANT(XenbusStateClosed);
  CONSTANT(XenbusStateReconfiguring);
  CONSTANT(XenbusStateReconfigured);
}

static void xenstore_constants(void) {
  CONSTANT(XS_CONTROL);
  CONSTANT(XS_DIRECTORY);
  CONSTANT(XS_READ);
  CONSTANT(XS_GET_PERMS);
  CONSTANT(XS_WATCH);
  CONSTANT(XS_UNWATCH);
  CONSTANT(XS_TRANSACTION_START);
  CONSTANT(XS_TRANSACTION_END);
  CONSTANT(XS_INTRODUCE);
  CONSTANT(XS_RELEASE);
  CONSTANT(XS_GET_DOMAIN_PATH);
  CONSTANT(XS_WRITE);
  CONSTANT(XS_MKDIR);
  CONSTANT(XS_RM);
  CONSTANT(XS_SET_PERMS);
  CONSTANT(XS_WATCH_EVENT);
  CONSTANT(XS_ERROR);
  CONSTANT(XS_IS_DOMAIN_INTRODUCED);
  CONSTANT(XS_RESUME);
  CONSTANT(XS_SET_TARGET);
  CONSTANT(XS_RESET_WATCHES);
  CONSTANT(XS_DIRECTORY_PART);
  CONSTANT(XENSTORE_PAYLOAD_MAX);
  CONSTANT(XENSTORE_ABS_PATH_MAX);
  CONSTANT(XENSTORE_REL_PATH_MAX);
  CONSTANT(XENSTORE_RING_SIZE);
}

/* The errors that xenstored answers by name, with the numbers of this machine's errno.h. */
static void xenstore_errors(void) {
  size_t count = sizeof(xsd_errors) / sizeof(xsd_errors[0]);
  printf(",\n  \"xsd_errors\": {");
  for (size_t index = 0; index < count; index++)
    printf("%s\n    \"%s\": %d", index == 0 ? "" : ",", xsd_errors[index].errstring,
           xsd_errors[index].errnum);
  printf("\n  }");
}

int main(void) {
  printf("{");
  netif();
  rings();
  vchan();
  grants();
  xenstore();
  printf(",\n  \"constants\": {");
  netif_constants();
  control_constants();
  grant_constants();
  xenbus_constants();
  xenstore_constants();
  printf("\n  }");
  xenstore_errors();
  printf("\n}\n");
  return 0;
}
