/** What may be asked of a stream of frames, and how that is said in the contract. */
import type { CallOptions } from './call.js';
import { invalidArgument } from './errors.js';
import {
  FrameDirection,
  type FrameSelection,
  type FramesOpened,
  type OpenFrames,
  OverflowPolicy,
} from './gen/xenvif/v1/frame_service.js';
import { type Port, portFromWire } from './switch.js';
import { type Vif, vifFromWire } from './vif.js';

/** Which frames a stream takes. */
export interface FrameSelectionOptions {
  /** Only this direction. Default: both. */
  readonly direction?: 'from-guest' | 'to-guest' | undefined;
  /** A pcap-filter expression, as tcpdump takes. */
  readonly filter?: string | undefined;
  /** Bytes to keep of each frame, 14 to 65535. Default: all. */
  readonly snaplen?: number | undefined;
  /** Take one frame of so many. */
  readonly sampleOneIn?: number | undefined;
}

/** How a stream of frames is bounded and gathered. Zero or absent: the daemon's default. */
export interface FrameStreamOptions extends CallOptions, FrameSelectionOptions {
  /** Bytes that may wait in the daemon, 64 KiB to 64 MiB. Default 4 MiB. */
  readonly queueBytes?: number | undefined;
  /** End the stream after so many frames. */
  readonly maxFrames?: number | undefined;
  /** Bytes of frames in a message, at most 256 KiB. Default 64 KiB. */
  readonly batchBytes?: number | undefined;
  /** Frames in a message, at most 4096. Default 2048. */
  readonly batchFrames?: number | undefined;
  /** Microseconds that a frame may wait for others, at most 1 s. Default: not at all. */
  readonly lingerUs?: number | undefined;
  /** What goes when the queue in the daemon is full. Default `drop-oldest`. */
  readonly overflow?: 'drop-oldest' | 'drop-newest' | 'end' | undefined;
  /**
   * Bytes of frames that may be on their way to this client or wait in it; the SDK gives the daemon
   * new credit as frames are consumed. At least 1 MiB; default 8 MiB.
   */
  readonly creditBytes?: number | undefined;
}

/** What the daemon granted when it opened a stream. */
export interface OpenedFrames {
  /** The run of the daemon. */
  readonly bootId: string;
  /** The vifs as they are, in the order asked for. */
  readonly vifs: readonly Vif[];
  /** The limit in force on bytes that wait in the daemon. */
  readonly queueBytes: number;
  readonly batchBytes: number;
  readonly batchFrames: number;
  readonly lingerUs: number;
  /** The port that was made, for a NIC on a switch. */
  readonly port?: Port;
}

/** As much as HTTP/2 may bring ahead: with less the daemon waits for a client that is short of a processor. */
const DEFAULT_CREDIT_BYTES = 8 * 1024 * 1024;
/** Less could stall: four batches of the longest kind, for credit goes back by the quarter. */
const CREDIT_BYTES_MIN = 1024 * 1024;

/** The part of the open message that is not the caller's choice. */
export type FramePurpose = Pick<OpenFrames, 'mode' | 'vifs' | 'reportResults'> &
  Partial<Pick<OpenFrames, 'switch' | 'port'>>;

/**
 * The credit of a stream in bytes.
 * @throws XenvifClientError CREDIT_TOO_SMALL
 */
export function creditBytesOf(options: FrameStreamOptions): number {
  const { creditBytes = DEFAULT_CREDIT_BYTES } = options;
  if (creditBytes >= CREDIT_BYTES_MIN) return creditBytes;
  const message = `creditBytes must be at least ${CREDIT_BYTES_MIN}.`;
  throw invalidArgument('CREDIT_TOO_SMALL', 'creditBytes', message);
}

/** The open message of a stream. @throws XenvifClientError CREDIT_TOO_SMALL */
export function openMessage(purpose: FramePurpose, options: FrameStreamOptions): OpenFrames {
  return {
    switch: '',
    port: undefined,
    ...purpose,
    selection: selectionToWire(options),
    limits: {
      queueBytes: BigInt(options.queueBytes ?? 0),
      frames: BigInt(options.maxFrames ?? 0),
    },
    batching: {
      bytes: options.batchBytes ?? 0,
      frames: options.batchFrames ?? 0,
      lingerUs: options.lingerUs ?? 0,
    },
    overflowPolicy: OVERFLOW_POLICIES[options.overflow ?? 'drop-oldest'],
    initialCreditBytes: BigInt(creditBytesOf(options)),
  };
}

export function selectionToWire(selection: FrameSelectionOptions): FrameSelection {
  const { direction } = selection;
  return {
    direction: direction === undefined ? FrameDirection.UNSPECIFIED : DIRECTIONS[direction],
    filter: selection.filter ?? '',
    snaplen: selection.snaplen ?? 0,
    sampleOneIn: selection.sampleOneIn ?? 0,
  };
}

export function openedFromWire(wire: FramesOpened): OpenedFrames {
  return {
    bootId: wire.bootId,
    vifs: wire.vifs.map(vifFromWire),
    queueBytes: Number(wire.limits?.queueBytes ?? 0n),
    batchBytes: wire.batching?.bytes ?? 0,
    batchFrames: wire.batching?.frames ?? 0,
    lingerUs: wire.batching?.lingerUs ?? 0,
    ...(wire.port && { port: portFromWire(wire.port) }),
  };
}

const DIRECTIONS = {
  'from-guest': FrameDirection.FROM_GUEST,
  'to-guest': FrameDirection.TO_GUEST,
} as const;

const OVERFLOW_POLICIES = {
  'drop-oldest': OverflowPolicy.DROP_OLDEST,
  'drop-newest': OverflowPolicy.DROP_NEWEST,
  end: OverflowPolicy.END,
} as const;
