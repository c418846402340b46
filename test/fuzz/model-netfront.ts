/**
 * What a frontend must make of a backend's responses, written straight from xen/io/netif.h, slowly
 * and simply, with nothing in common with src.
 */

/** A response slot as the backend wrote it, and the page of the request in whose slot it stands. */
export interface RxSlot {
  readonly index: number;
  readonly bytes: Uint8Array;
  readonly page: Uint8Array;
}

export interface ReceivedFrame {
  readonly bytes: Uint8Array;
  readonly checksumBlank: boolean;
  readonly validated: boolean;
  readonly gsoType: number;
  readonly gsoSize: number;
}

export interface RxVerdict {
  readonly frames: readonly ReceivedFrame[];
  /** For each packet that is dropped, what is wrong with it: one of these is the cause. */
  readonly dropped: readonly ReadonlySet<string>[];
  /** Why the backend must be cut off. */
  readonly kill: string | undefined;
}

const PAGE = 4096;
const SLOTS_MAX = 18;
const FRAME_MIN = 14;
const FRAME_MAX = 65535;
const DATA_VALIDATED = 1;
const CSUM_BLANK = 2;
const MORE_DATA = 4;
const EXTRA_INFO = 8;
const EXTRA_GSO = 1;
const EXTRA_HASH = 4;

class Kill {
  readonly reason: string;
  constructor(reason: string) {
    this.reason = reason;
  }
}

/** `gsoTypes`: the segmentation types that the frontend asked for. */
export function judgeRx(slots: readonly RxSlot[], gsoTypes: ReadonlySet<number>): RxVerdict {
  const frames: ReceivedFrame[] = [];
  const dropped: ReadonlySet<string>[] = [];
  const rest = [...slots];
  try {
    while (rest.length > 0) {
      const packet = takePacket(rest, gsoTypes);
      if (packet instanceof Set) dropped.push(packet);
      else frames.push(packet);
    }
  } catch (error) {
    if (!(error instanceof Kill)) throw error;
    return { frames, dropped, kill: error.reason };
  }
  return { frames, dropped, kill: undefined };
}

function takePacket(rest: RxSlot[], gsoTypes: ReadonlySet<number>): ReceivedFrame | Set<string> {
  const faults = new Set<string>();
  const data: number[] = [];
  let gsoType = 0;
  let gsoSize = 0;
  let firstFlags = 0;
  for (let part = 1, more = true; more; part += 1) {
    const { flags, offset, page, status } = takeResponse(rest);
    more = (flags & MORE_DATA) !== 0;
    if (status < 0) faults.add('BACKEND_ERROR');
    if (part > SLOTS_MAX) faults.add('TOO_MANY_SLOTS');
    if (status > 0) for (const byte of page.slice(offset, offset + status)) data.push(byte);
    if (part > 1) continue;
    firstFlags = flags;
    for (let goesOn = (flags & EXTRA_INFO) !== 0; goesOn; ) {
      const extra = takeExtra(rest);
      goesOn = (extra.flags & 1) !== 0;
      if (extra.type === EXTRA_GSO) {
        ({ gsoSize, gsoType } = extra);
        if (gsoSize === 0 || !gsoTypes.has(gsoType)) faults.add('GSO_INVALID');
      } else if (extra.type !== EXTRA_HASH) faults.add('EXTRA_UNEXPECTED');
    }
  }
  if (data.length > FRAME_MAX) faults.add('TOO_LONG');
  if (data.length < FRAME_MIN) faults.add('TOO_SHORT');
  if (faults.size > 0) return faults;
  const checksumBlank = (firstFlags & CSUM_BLANK) !== 0;
  return {
    bytes: Uint8Array.from(data),
    checksumBlank,
    validated: checksumBlank || (firstFlags & DATA_VALIDATED) !== 0,
    gsoType,
    gsoSize: gsoType === 0 ? 0 : gsoSize,
  };
}

function takeResponse(rest: RxSlot[]) {
  const slot = rest.shift();
  if (slot === undefined) throw new Kill('CHAIN_TRUNCATED');
  const view = new DataView(slot.bytes.buffer, slot.bytes.byteOffset, 8);
  const offset = view.getUint16(2, true);
  const flags = view.getUint16(4, true);
  const status = view.getInt16(6, true);
  if (view.getUint16(0, true) !== slot.index % 0x10000) throw new Kill('RESPONSE_ID_INVALID');
  if (status > 0 && offset + status > PAGE) throw new Kill('RESPONSE_CROSSES_PAGE');
  return { offset, flags, status, page: slot.page };
}

function takeExtra(rest: RxSlot[]) {
  const slot = rest.shift();
  if (slot === undefined) throw new Kill('EXTRA_MISSING');
  const view = new DataView(slot.bytes.buffer, slot.bytes.byteOffset, 8);
  const type = view.getUint8(0);
  if (type < 1 || type > EXTRA_HASH) throw new Kill('EXTRA_TYPE_INVALID');
  return {
    type,
    flags: view.getUint8(1),
    gsoSize: view.getUint16(2, true),
    gsoType: view.getUint8(4),
  };
}
