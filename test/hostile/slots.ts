/** Slots of netif.h made and read by hand; the layouts are written down here once more on purpose. */
import type { Words } from './raw-ring.js';

/** `XEN_NETTXF_*`. */
export const CSUM_BLANK = 1;
export const DATA_VALIDATED = 2;
export const MORE_DATA = 4;
export const EXTRA_INFO = 8;
/** `XEN_NETRXF_*`, where they differ from TX. */
export const RX_DATA_VALIDATED = 1;
export const RX_CSUM_BLANK = 2;
/** `XEN_NETIF_EXTRA_*`. */
export const EXTRA_GSO = 1;
export const EXTRA_MCAST_ADD = 2;
export const EXTRA_MCAST_DEL = 3;
export const EXTRA_HASH = 4;
export const EXTRA_MORE = 1;
/** `NETIF_RSP_*`. */
export const OKAY = 0;
export const ERROR = -1;
export const DROPPED = -2;
export const NULL = 1;

/** The fields of `netif_tx_request`; absent ones are 0. */
export interface TxFields {
  readonly gref?: number;
  readonly offset?: number;
  readonly flags?: number;
  readonly id?: number;
  readonly size?: number;
}

export function txRequest({ gref = 0, offset = 0, flags = 0, id = 0, size = 0 }: TxFields): Words {
  return [gref, offset | (flags << 16), id | (size << 16)];
}

/** An extra of any type: two bytes of head and six of content. */
export function extra(type: number, flags = 0, content: readonly number[] = []): Words {
  const byte = (index: number) => content[index] ?? 0;
  return [
    type | (flags << 8) | (byte(0) << 16) | (byte(1) << 24),
    byte(2) | (byte(3) << 8) | (byte(4) << 16) | (byte(5) << 24),
    0,
  ];
}

export function gsoExtra(size: number, type: number, flags = 0): Words {
  return extra(EXTRA_GSO, flags, [size & 0xff, size >> 8, type]);
}

export function rxRequest(id: number, gref: number): Words {
  return [id, gref];
}

/** `xen_netif_ctrl_request`. */
export function controlRequest(id: number, type: number, data: readonly number[] = []): Words {
  return [id | (type << 16), data[0] ?? 0, data[1] ?? 0, data[2] ?? 0];
}

export interface TxResponse {
  readonly id: number;
  readonly status: number;
  /** What follows in the slot behind the response. */
  readonly rest: readonly number[];
}

export function txResponse(words: Words): TxResponse {
  const [head = 0, ...rest] = words;
  return { id: head & 0xffff, status: head >> 16, rest };
}

export interface RxResponse {
  readonly id: number;
  readonly offset: number;
  readonly flags: number;
  readonly status: number;
}

export function rxResponse(words: Words): RxResponse {
  const [first = 0, second = 0] = words;
  return {
    id: first & 0xffff,
    offset: first >>> 16,
    flags: second & 0xffff,
    status: second >> 16,
  };
}

export interface ControlResponse {
  readonly id: number;
  readonly type: number;
  readonly status: number;
  readonly data: number;
  /** The slot's bytes behind the response. */
  readonly rest: number;
}

export function controlResponse(words: Words): ControlResponse {
  const [head = 0, status = 0, data = 0, rest = 0] = words;
  return { id: head & 0xffff, type: head >>> 16, status, data, rest };
}
