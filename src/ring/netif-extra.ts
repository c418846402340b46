/**
 * Extra info slots: `netif_extra_info` of xen/io/netif.h, which may follow a packet's first slot.
 *
 *   0 u8 type   1 u8 flags   then for GSO: 2 u16 size   4 u8 type   5 u8 pad   6 u16 features
 */
import type { Page } from '../xen/page.js';

/** `XEN_NETIF_EXTRA_TYPE_GSO`. */
export const EXTRA_TYPE_GSO = 1;
/** `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`. */
export const EXTRA_TYPE_MCAST_ADD = 2;
/** `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`. */
export const EXTRA_TYPE_MCAST_DEL = 3;
/** `XEN_NETIF_EXTRA_TYPE_HASH`. */
export const EXTRA_TYPE_HASH = 4;
/** `XEN_NETIF_EXTRA_TYPE_MAX`: the first type that is none. */
export const EXTRA_TYPE_MAX = 5;

/** `XEN_NETIF_EXTRA_FLAG_MORE`: another extra follows. */
export const EXTRA_FLAG_MORE = 1;

/** `XEN_NETIF_GSO_TYPE_TCPV4`. */
export const GSO_TYPE_TCPV4 = 1;
/** `XEN_NETIF_GSO_TYPE_TCPV6`. */
export const GSO_TYPE_TCPV6 = 2;

/** An extra, copied out of the ring. The GSO fields mean something for EXTRA_TYPE_GSO only. */
export interface Extra {
  type: number;
  flags: number;
  gsoSize: number;
  gsoType: number;
}

/** Copies the extra at `slot` into `extra`, each word read once. */
export function readExtra(page: Page, slot: number, extra: Extra): void {
  const head = page.readU32(slot);
  const tail = page.readU32(slot + 4);
  extra.type = head & 0xff;
  extra.flags = (head >>> 8) & 0xff;
  extra.gsoSize = head >>> 16;
  extra.gsoType = tail & 0xff;
}
