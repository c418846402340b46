/**
 * Extra info slots: `netif_extra_info` of xen/io/netif.h, which may follow a packet's first slot.
 *
 *   0 u8 type   1 u8 flags   then, by type:
 *   GSO                    2 u16 size   4 u8 type   5 u8 pad   6 u16 features
 *   MCAST_ADD, MCAST_DEL   2 u8[6] address
 *   HASH                   2 u8 type   3 u8 algorithm   4 u8[4] value
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

/** An extra, copied out of the ring: its two words, as far as its type gives them a meaning. */
export interface Extra {
  type: number;
  flags: number;
  /** GSO only. */
  gsoSize: number;
  /** GSO only. */
  gsoType: number;
  /** MCAST_ADD and MCAST_DEL only: the first two bytes of the address, as a big-endian number. */
  addressHigh: number;
  /** MCAST_ADD and MCAST_DEL only: the last four bytes of the address. */
  addressLow: number;
}

/** An extra to read into. */
export function emptyExtra(): Extra {
  return { type: 0, flags: 0, gsoSize: 0, gsoType: 0, addressHigh: 0, addressLow: 0 };
}

/** Copies the extra at `slot` into `extra`, each word read once. */
export function readExtra(page: Page, slot: number, extra: Extra): void {
  parseExtra(page.readU32(slot), page.readU32(slot + 4), extra);
}

/** Takes an extra apart that was copied out of its ring: its first two words. */
export function parseExtra(head: number, tail: number, extra: Extra): void {
  extra.type = head & 0xff;
  extra.flags = (head >>> 8) & 0xff;
  extra.gsoSize = head >>> 16;
  extra.gsoType = tail & 0xff;
  extra.addressHigh = (((head >>> 16) & 0xff) << 8) | (head >>> 24);
  extra.addressLow = swap32(tail);
}

/** Writes a GSO extra over the slot's first 8 bytes. */
export function writeGsoExtra(
  page: Page,
  slot: number,
  flags: number,
  gsoSize: number,
  gsoType: number,
): void {
  page.writeU32(slot, EXTRA_TYPE_GSO | (flags << 8) | (gsoSize << 16));
  page.writeU32(slot + 4, gsoType);
}

/** Writes an extra that adds or deletes a multicast address. */
export function writeMulticastExtra(
  page: Page,
  slot: number,
  type: typeof EXTRA_TYPE_MCAST_ADD | typeof EXTRA_TYPE_MCAST_DEL,
  addressHigh: number,
  addressLow: number,
): void {
  page.writeU32(slot, type | ((addressHigh >>> 8) << 16) | ((addressHigh & 0xff) << 24));
  page.writeU32(slot + 4, swap32(addressLow));
}

/**
 * Writes a HASH extra; the value has its least significant byte first.
 */
export function writeHashExtra(
  page: Page,
  slot: number,
  flags: number,
  hashType: number,
  algorithm: number,
  value: number,
): void {
  page.writeU32(slot, EXTRA_TYPE_HASH | (flags << 8) | (hashType << 16) | (algorithm << 24));
  page.writeU32(slot + 4, value);
}

function swap32(word: number): number {
  const high = ((word & 0xff) << 24) | ((word & 0xff00) << 8);
  return (high | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;
}
