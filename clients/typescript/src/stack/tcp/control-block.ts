/**
 * All that is known of a connection (RFC 9293, section 3.3.1): plain fields, which the functions of
 * input.ts, output.ts and timers.ts read and write. The names are the RFC's, in full.
 */
import { DeadlineTimer } from '../clock.js';
import type { StackError } from '../errors.js';
import type { Ipv4 } from '../ipv4.js';
import type { Neighbour } from '../neighbours.js';
import { Congestion } from './congestion.js';
import { LossDetection } from './loss-detection.js';
import { type MemoryAccount, OutOfOrder } from './out-of-order.js';
import { ReceiveBuffer } from './receive-buffer.js';
import { RoundTrip } from './round-trip.js';
import { SendBuffer } from './send-buffer.js';
import { SentSegments } from './sent-segments.js';
import { Retransmissions } from './spurious.js';

export type TcpState =
  | 'syn-sent'
  | 'syn-received'
  | 'established'
  | 'fin-wait-1'
  | 'fin-wait-2'
  | 'close-wait'
  | 'closing'
  | 'last-ack'
  | 'time-wait'
  | 'closed';

export const NEVER = Number.POSITIVE_INFINITY;
/** Segments at the beginning of a connection that are acknowledged at once, for slow start's sake. */
const QUICK_ACKS = 16;

/** Limits and times of all connections of a stack; every one may be set by `StackOptions.tcp`. */
export interface TcpSettings {
  /** Bytes that are kept of what was written and not acknowledged. Default 1 MiB. */
  readonly sendBufferBytes: number;
  /** Bytes that wait for the reader at most: the largest window. Default 1 MiB. */
  readonly receiveBufferBytes: number;
  /** How long an ended connection is remembered, in milliseconds. Default 60000: twice the MSL. */
  readonly timeWaitMs: number;
  /** How long acknowledgements wait for data to go with, in milliseconds. Default 40. */
  readonly ackDelayMs: number;
  /** Whether selective acknowledgements, timestamps and window scaling are offered. Default: all. */
  readonly sack: boolean;
  readonly timestamps: boolean;
  readonly windowScaling: boolean;
}

/** Who uses a connection. */
export interface ConnectionOwner {
  /** The handshake is done. */
  onConnected(): void;
  /** There is data to read, or the peer's end. */
  onReadable(): void;
  /** There is room to write again. */
  onWritable(): void;
  /** Bytes that it was given and that its reader has not taken. */
  unreadBytes(): number;
  /** The connection is over; with what ended it before its time. */
  onClosed(error: StackError | undefined): void;
}

/** The four numbers that name a connection. */
export interface ConnectionPlace {
  readonly localAddress: number;
  readonly localPort: number;
  readonly remoteAddress: number;
  readonly remotePort: number;
}

export class ControlBlock {
  readonly ipv4: Ipv4;
  readonly settings: TcpSettings;
  readonly localAddress: number;
  readonly localPort: number;
  readonly remoteAddress: number;
  readonly remotePort: number;
  state: TcpState;
  owner: ConnectionOwner | undefined;
  /** The next connection with the same hash. */
  nextInBucket: ControlBlock | undefined;

  // Who gets the packets: see `routeOf`.
  neighbour: Neighbour | undefined;
  routeGeneration = -1;

  // What is sent.
  initialSendSequence: number;
  sendUnacknowledged: number;
  sendNext: number;
  sendWindow = 0;
  sendWindowMax = 0;
  /** Sequence and acknowledgement of the segment that set the window last. */
  windowSequence = 0;
  windowAcknowledgement = 0;
  sendShift = 0;
  /** What the peer takes in a segment, options included. */
  peerSegmentBytes = 536;
  /** Payload of a full segment now. */
  segmentBytes = 536;
  readonly sendBuffer: SendBuffer;
  readonly sent = new SentSegments();
  readonly congestion = new Congestion(536);
  readonly roundTrip = new RoundTrip();
  readonly loss = new LossDetection();
  readonly retransmissions = new Retransmissions();
  /** The writer has no more. */
  isEndQueued = false;
  isFinSent = false;
  noDelay = false;
  isRecovering = false;
  /** A loss was just noticed: the first segment is sent again whatever else is on its way. */
  isRetransmissionDue = false;
  /** Recovery is over when everything before this is acknowledged. */
  recoveryEnd = 0;
  /** Acknowledgements in a row that said nothing new: all there is to go by without SACK. */
  duplicateAcks = 0;
  lastSentMs = 0;
  /** Whether the congestion window is what holds data back. */
  isWindowLimited = false;
  /** A probe for a lost tail was sent (RFC 8985, section 7). */
  isTailProbed = false;
  /** There was no room on the link. */
  isBlocked = false;

  // What is received.
  initialReceiveSequence = 0;
  receiveNext = 0;
  /** The right edge of the window that was told: it is never taken back. */
  receiveEdge = 0;
  receiveShift = 0;
  readonly receiveBuffer = new ReceiveBuffer();
  readonly outOfOrder: OutOfOrder;
  /** Where the peer's end is, once told; it counts when all before it is there. */
  finSequence: number | undefined;
  isEndReceived = false;
  sackEnabled = false;
  timestampsEnabled = false;
  timestampOffset = 0;
  timestampRecent = 0;
  timestampRecentMs = 0;
  lastAcknowledgementSent = 0;
  /** Bytes that arrived since the last acknowledgement. */
  unacknowledgedBytes = 0;
  mustAcknowledge = false;
  quickAcks = QUICK_ACKS;
  /** The last duplicate that arrived, to be told (RFC 2883). */
  duplicateStart = 0;
  duplicateEnd = 0;
  hasDuplicate = false;

  // Times.
  readonly timer: DeadlineTimer;
  retransmitMs = NEVER;
  reorderMs = NEVER;
  tailProbeMs = NEVER;
  persistMs = NEVER;
  acknowledgeMs = NEVER;
  keepAliveMs = NEVER;
  /** When the state ends by itself: a handshake, FIN-WAIT-2 without an owner, TIME-WAIT. */
  stateEndMs = NEVER;
  handshakeSentMs = 0;
  probesUnanswered = 0;
  keepAliveIdleMs = NEVER;
  lastHeardMs = 0;
  /** Waits for its turn at the end of the batch. */
  isTouched = false;
  /** The owner will be told that there is something to read. */
  isToldSoon = false;
  /** What ended it. */
  error: StackError | undefined;

  constructor(
    ipv4: Ipv4,
    settings: TcpSettings,
    account: MemoryAccount,
    place: ConnectionPlace,
    state: TcpState,
    initialSequence: number,
    onTimer: (block: ControlBlock) => void,
  ) {
    this.ipv4 = ipv4;
    this.settings = settings;
    this.localAddress = place.localAddress;
    this.localPort = place.localPort;
    this.remoteAddress = place.remoteAddress;
    this.remotePort = place.remotePort;
    this.state = state;
    this.initialSendSequence = initialSequence;
    this.sendUnacknowledged = initialSequence;
    this.sendNext = initialSequence;
    this.recoveryEnd = initialSequence;
    this.sendBuffer = new SendBuffer(settings.sendBufferBytes);
    this.outOfOrder = new OutOfOrder(account, settings.receiveBufferBytes);
    this.timer = new DeadlineTimer(ipv4.clock, () => onTimer(this));
  }

  /** Whether the handshake is done and the connection is not over. */
  get isSynchronized(): boolean {
    return this.state !== 'syn-sent' && this.state !== 'syn-received' && this.state !== 'closed';
  }

  /** Whether the peer may still send data. */
  get isReceiving(): boolean {
    const { state } = this;
    return state === 'established' || state === 'fin-wait-1' || state === 'fin-wait-2';
  }

  /** Bytes that were written and never sent. */
  get unsentBytes(): number {
    const inFlight = (this.sendNext - this.sendUnacknowledged) | 0;
    return this.sendBuffer.length - (inFlight - (this.isFinSent && inFlight > 0 ? 1 : 0));
  }

  /** Bytes that arrived and were not read. */
  get unreadBytes(): number {
    return this.receiveBuffer.length + (this.owner?.unreadBytes() ?? 0);
  }

  nowMs(): number {
    return this.ipv4.clock.nowMs();
  }

  /** The timestamp of a segment sent now: milliseconds from anywhere (RFC 7323, section 5.4). */
  timestamp(): number {
    return ((this.nowMs() | 0) + this.timestampOffset) | 0;
  }
}
