/** Frames for the fuzzing: mostly right TCP and UDP over IPv4 and IPv6, and what is nearly right. */
import type { SeededRandom } from '../support/random.js';
import { once, pick } from './engine.js';

export const FRAME_KINDS = ['noise', 'udp4', 'tcp4', 'udp6', 'tcp6'] as const;
export type FrameKind = (typeof FRAME_KINDS)[number];

/** A frame of `length` bytes as well as the kind allows; `flaw` breaks one thing in it. */
export interface FrameSpec {
  readonly kind: FrameKind;
  readonly length: number;
  readonly seed: number;
  readonly tags: number;
  readonly flaw: Flaw | undefined;
}

export const FLAWS = [
  'truncated',
  'total too long',
  'total too short',
  'fragment',
  'other protocol',
  'bad header length',
  'other version',
] as const;
export type Flaw = (typeof FLAWS)[number];

export function generateFrame(random: SeededRandom, lengthMax: number): FrameSpec {
  const kind = pick(random, FRAME_KINDS);
  return {
    kind,
    length: 14 + random.below(lengthMax - 13),
    seed: random.below(0x10000),
    tags: once(random, 6) ? 1 + random.below(3) : 0,
    flaw: once(random, 5) ? pick(random, FLAWS) : undefined,
  };
}

/** The bytes of a frame; the same for the same spec. */
export function composeFrame({ kind, length, seed, tags, flaw }: FrameSpec): Uint8Array {
  const frame = new Uint8Array(length);
  for (let index = 0; index < length; index += 1) frame[index] = (seed * 31 + index * 7) >> 1;
  const isIpv4 = kind.endsWith('4');
  const headers = (isIpv4 ? 20 : 40) + (kind.startsWith('tcp') ? 20 : 8);
  if (kind === 'noise' || length < 14 + tags * 4 + headers) {
    new DataView(frame.buffer).setUint16(12, 0x88b5);
    return frame;
  }
  const view = new DataView(frame.buffer);
  for (let tag = 0; tag < tags; tag += 1) view.setUint16(12 + tag * 4, tag === 0 ? 0x88a8 : 0x8100);
  view.setUint16(12 + tags * 4, isIpv4 ? 0x0800 : 0x86dd);
  const network = 14 + tags * 4;
  const protocol = kind.startsWith('tcp') ? 6 : 17;
  const transport = network + (isIpv4 ? 20 : 40);
  if (isIpv4) {
    view.setUint8(network, 0x45);
    view.setUint16(network + 2, length - network);
    view.setUint16(network + 6, 0x4000 & 0x3fff);
    view.setUint8(network + 9, protocol);
  } else {
    view.setUint8(network, 0x60);
    view.setUint16(network + 4, length - transport);
    view.setUint8(network + 6, protocol);
  }
  if (protocol === 6) view.setUint8(transport + 12, 0x50);
  else view.setUint16(transport + 4, length - transport);
  if (flaw !== undefined) damage(view, { network, transport, isIpv4, protocol, flaw });
  return flaw === 'truncated' ? frame.slice(0, Math.max(14, transport + (seed % 20))) : frame;
}

function damage(
  view: DataView,
  at: { network: number; transport: number; isIpv4: boolean; protocol: number; flaw: Flaw },
): void {
  const { network, transport, isIpv4, protocol, flaw } = at;
  const total = isIpv4 ? network + 2 : network + 4;
  switch (flaw) {
    case 'truncated':
      return;
    case 'total too long':
      view.setUint16(total, view.getUint16(total) + 1);
      return;
    case 'total too short':
      view.setUint16(total, isIpv4 ? 19 + (view.byteLength % 20) : view.byteLength % 8);
      return;
    case 'fragment':
      if (isIpv4) view.setUint16(network + 6, 0x2000);
      return;
    case 'other protocol':
      view.setUint8(isIpv4 ? network + 9 : network + 6, 1);
      return;
    case 'bad header length':
      if (protocol === 6) view.setUint8(transport + 12, 0x40);
      else view.setUint16(transport + 4, 7);
      return;
    case 'other version':
      view.setUint8(network, isIpv4 ? 0x65 : 0x40);
  }
}
