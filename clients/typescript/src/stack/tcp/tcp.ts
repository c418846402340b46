/**
 * TCP over IPv4: which connection a segment is for, ports that listen, and the end of connections.
 * Segments that came together are taken together: what each connection answers comes once at their
 * end. Readers get theirs in a turn of the event loop of their own: a link may call from where Node
 * runs no callbacks, and Node's http parser, for one, would then be entered while it is at work.
 */
import { createHmac } from 'node:crypto';
import { formatAddress, isMulticast, isUnusableSource } from '../address.js';
import { StackError } from '../errors.js';
import type { Icmp, IcmpError } from '../icmp.js';
import { type Ipv4, unreachable } from '../ipv4.js';
import { CHALLENGE_ACKS_PER_SECOND, CONNECTIONS_MAX, TIME_WAITS_MAX } from '../limits.js';
import { RateLimit } from '../rate-limit.js';
import { checkPort, EPHEMERAL_PORT_FIRST, EPHEMERAL_PORTS } from '../udp.js';
import { readI32, readU16 } from '../wire/bytes.js';
import {
  ICMP_UNREACHABLE,
  UNREACHABLE_FRAGMENTATION,
  UNREACHABLE_PORT,
  UNREACHABLE_PROTOCOL,
} from '../wire/icmp.js';
import { type Ipv4Header, PROTOCOL_TCP } from '../wire/ipv4.js';
import {
  parseTcp,
  TCP_ACK,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_RST,
  TCP_SYN,
  TcpSegment,
  writeTcp,
  writeTcpChecksum,
} from '../wire/tcp.js';
import { ConnectionTable } from './connection-table.js';
import {
  type ConnectionOwner,
  type ConnectionPlace,
  ControlBlock,
  NEVER,
  type TcpSettings,
  type TcpState,
} from './control-block.js';
import { type InputActions, input, takeOffer } from './input.js';
import { Listener, type ListenerOptions } from './listener.js';
import { MemoryAccount } from './out-of-order.js';
import {
  isInFlight,
  isWindowUpdateDue,
  output,
  sendReset,
  sendSyn,
  updateSegmentBytes,
} from './output.js';
import { advance, isBefore } from './sequence.js';
import { armPersist, onTimer, rearm } from './timers.js';

/** Memory for what arrives before its time, in bytes, for all connections of a stack. */
const OUT_OF_ORDER_BYTES = 64 * 1024 * 1024;
/** How long the peer's end is waited for by a connection that nobody owns, in milliseconds. */
const ORPHAN_FIN_WAIT_MS = 60_000;
const SEQUENCE_TICKS_PER_MS = 250;

export interface TcpCounts {
  received: number;
  malformed: number;
  refused: number;
  challenged: number;
  backlogDropped: number;
}

export class Tcp {
  readonly ipv4: Ipv4;
  readonly settings: TcpSettings;
  readonly counts: TcpCounts = {
    ...{ received: 0, malformed: 0, refused: 0, challenged: 0, backlogDropped: 0 },
  };
  readonly #table: ConnectionTable;
  readonly #listeners = new Map<number, Listener>();
  readonly #account = new MemoryAccount(OUT_OF_ORDER_BYTES);
  readonly #segment = new TcpSegment();
  readonly #challenges: RateLimit;
  readonly #secret: Buffer;
  #touched: ControlBlock[] = [];
  #isTurnDue = false;
  /** Connections whose readers have something to hear of. */
  #readable: ControlBlock[] = [];
  readonly #timeWaits = new Set<ControlBlock>();
  readonly #blocked = new Set<ControlBlock>();
  readonly #actions: InputActions;
  readonly #onTimer = (block: ControlBlock) => {
    onTimer(block, this.#actions);
    this.#noteBlocked(block);
  };

  constructor(ipv4: Ipv4, icmp: Icmp, settings: TcpSettings) {
    this.ipv4 = ipv4;
    this.settings = settings;
    this.#table = new ConnectionTable(ipv4.random.u32() | 0);
    this.#challenges = new RateLimit(ipv4.clock, CHALLENGE_ACKS_PER_SECOND);
    const secret = Uint32Array.from({ length: 8 }, () => ipv4.random.u32());
    this.#secret = Buffer.from(secret.buffer);
    this.#actions = {
      close: (block, error) => this.close(block, error),
      connected: (block) => this.#connected(block),
      refuse: (block, segment) => this.#reset(block.localAddress, block.remoteAddress, segment),
      challenge: (block) => this.#challenge(block),
      waitOut: (block) => this.#waitOut(block),
    };
    ipv4.use(PROTOCOL_TCP, (header, bytes, offset, length, isVerified) =>
      this.#receive(header, bytes, offset, length, isVerified),
    );
    ipv4.onBatchEnd(() => this.#endBatch());
    ipv4.onRoom(() => this.#unblock());
    ipv4.onUnreachable((neighbour) => this.#takeUnreachable(neighbour));
    icmp.onError(PROTOCOL_TCP, (error) => this.#takeError(error));
  }

  /** Connections in all states, TIME-WAIT included. */
  get connectionCount(): number {
    return this.#table.size;
  }

  *connections(): Iterable<ControlBlock> {
    yield* this.#table;
  }

  get halfOpenCount(): number {
    let count = 0;
    for (const listener of this.#listeners.values()) count += listener.halfOpenCount;
    return count;
  }

  /**
   * Takes connections to a port; 0: to one that is free.
   * @throws StackError PORT_INVALID, EADDRINUSE.
   */
  listen(port: number, options: ListenerOptions): Listener {
    checkPort(port, 0);
    const chosen = port === 0 ? this.#freePort((free) => !this.#listeners.has(free)) : port;
    if (this.#listeners.has(chosen)) {
      throw new StackError('EADDRINUSE', `The TCP port ${chosen} is in use.`);
    }
    const listener = new Listener(chosen, options);
    this.#listeners.set(chosen, listener);
    return listener;
  }

  /** Takes no more connections; handshakes under way are given up. */
  unlisten(listener: Listener): void {
    if (this.#listeners.get(listener.port) !== listener) return;
    this.#listeners.delete(listener.port);
    for (const block of listener.halfOpen()) this.abort(block);
  }

  /**
   * Calls a peer; the owner hears what becomes of it.
   * @throws StackError PORT_INVALID, EHOSTUNREACH, EADDRNOTAVAIL, EADDRINUSE, ECONNLIMIT.
   */
  connect(
    remoteAddress: number,
    remotePort: number,
    localPort: number,
    owner: ConnectionOwner,
  ): ControlBlock {
    checkPort(remotePort);
    checkPort(localPort, 0);
    const localAddress = this.ipv4.address;
    if (localAddress === 0) throw new StackError('EADDRNOTAVAIL', 'There is no address yet.');
    const isHost = !isUnusableSource(remoteAddress) && !this.ipv4.isBroadcast(remoteAddress);
    if (!isHost || this.ipv4.output.route(remoteAddress) === undefined) {
      throw unreachable(formatAddress(remoteAddress));
    }
    if (this.#table.size >= CONNECTIONS_MAX && !this.#forgetTimeWait()) {
      throw new StackError('ECONNLIMIT', 'There are too many connections.');
    }
    const isFree = (port: number) =>
      this.#table.find(localAddress, port, remoteAddress, remotePort) === undefined;
    const port = localPort === 0 ? this.#freePort(isFree) : localPort;
    if (!isFree(port)) throw new StackError('EADDRINUSE', 'There is such a connection already.');
    const place = { localAddress, localPort: port, remoteAddress, remotePort };
    const block = this.#create(place, 'syn-sent');
    block.owner = owner;
    this.#call(block);
    return block;
  }

  /** There is something to send, or the owner has read: is seen to at the end of this turn. */
  touch(block: ControlBlock): void {
    if (block.isTouched) return;
    block.isTouched = true;
    this.#touched.push(block);
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    queueMicrotask(this.#turn);
  }

  /** The owner sends no more. */
  endSending(block: ControlBlock): void {
    block.isEndQueued = true;
    this.touch(block);
  }

  /** The owner is gone: ends the connection in order where that can be, or else resets it. */
  release(block: ControlBlock): void {
    if (block.owner === undefined) return;
    const wasUnread = block.unreadBytes > 0;
    block.owner = undefined;
    block.receiveBuffer.clear();
    block.outOfOrder.clear();
    if (block.state === 'closed') return;
    if (!block.isSynchronized || wasUnread) {
      this.abort(block);
      return;
    }
    block.keepAliveMs = NEVER;
    block.isEndQueued = true;
    if (block.state === 'fin-wait-2') block.stateEndMs = block.nowMs() + ORPHAN_FIN_WAIT_MS;
    this.touch(block);
  }

  /** Ends a connection by a reset. */
  abort(block: ControlBlock): void {
    if (block.state === 'closed') return;
    if (block.state !== 'syn-sent' && block.state !== 'time-wait') sendReset(block);
    this.close(block, new StackError('ECONNABORTED', 'The connection was given up.'));
  }

  /** Forgets a connection, and tells its owner. */
  close(block: ControlBlock, error: StackError | undefined): void {
    if (block.state === 'closed') return;
    block.state = 'closed';
    block.error = error;
    block.timer.stop();
    block.sent.clear();
    block.sendBuffer.clear();
    block.outOfOrder.clear();
    this.#table.remove(block);
    this.#timeWaits.delete(block);
    this.#blocked.delete(block);
    this.#listeners.get(block.localPort)?.remove(block);
    block.owner?.onClosed(error);
  }

  /** Ends all connections at once. */
  stop(): void {
    for (const listener of [...this.#listeners.values()]) this.unlisten(listener);
    for (const block of [...this.#table]) this.abort(block);
  }

  #receive(
    ip: Ipv4Header,
    bytes: Uint8Array,
    offset: number,
    length: number,
    isVerified: boolean,
  ): void {
    const { source, destination } = ip;
    const segment = this.#segment;
    if (!parseTcp(bytes, offset, length, source, destination, isVerified, segment)) {
      this.counts.malformed += 1;
      return;
    }
    // Connections are between two hosts (RFC 9293, section 3.9.2.3).
    if (destination !== this.ipv4.address || isUnusableSource(source)) return;
    this.counts.received += 1;
    const { sourcePort, destinationPort } = segment;
    const block = this.#table.find(destination, destinationPort, source, sourcePort);
    if (block === undefined || this.#isReused(block, segment)) {
      this.#receiveNew(destination, source, segment);
      return;
    }
    this.#touchReceived(block);
    input(block, segment, bytes, this.#actions);
  }

  /** A caller that uses the numbers of an ended connection again (RFC 6191) gets a new one. */
  #isReused(block: ControlBlock, segment: TcpSegment): boolean {
    if (block.state !== 'time-wait') return false;
    if ((segment.flags & (TCP_SYN | TCP_ACK | TCP_RST)) !== TCP_SYN) return false;
    const isLater =
      block.timestampsEnabled && segment.hasTimestamps
        ? isBefore(block.timestampRecent, segment.timestamp)
        : isBefore(block.receiveNext, segment.sequence);
    if (isLater) this.close(block, undefined);
    return isLater;
  }

  /** A segment of no connection: a call, or a mistake (RFC 9293, sections 3.10.7.1 and 3.10.7.2). */
  #receiveNew(localAddress: number, remoteAddress: number, segment: TcpSegment): void {
    if (segment.has(TCP_RST)) return;
    const listener = this.#listeners.get(segment.destinationPort);
    const isCall = (segment.flags & (TCP_SYN | TCP_ACK | TCP_FIN)) === TCP_SYN;
    // What neither calls nor acknowledges says nothing to a port that listens; nor does a call that
    // ends itself.
    if (listener !== undefined && !isCall && !segment.has(TCP_ACK)) return;
    if (listener === undefined || !isCall) {
      this.counts.refused += 1;
      this.#reset(localAddress, remoteAddress, segment);
      return;
    }
    if (this.#table.size >= CONNECTIONS_MAX && !this.#forgetTimeWait()) {
      this.counts.backlogDropped += 1;
      return;
    }
    const { destinationPort: localPort, sourcePort: remotePort } = segment;
    const place = { localAddress, localPort, remoteAddress, remotePort };
    const block = this.#create(place, 'syn-received');
    takeOffer(block, segment);
    const oldest = listener.add(block);
    if (oldest !== undefined) {
      this.counts.backlogDropped += 1;
      this.close(oldest, undefined);
    }
    this.#call(block);
  }

  #create(place: ConnectionPlace, state: TcpState): ControlBlock {
    const sequence = this.#initialSequence(place);
    const block = new ControlBlock(
      this.ipv4,
      this.settings,
      this.#account,
      place,
      state,
      sequence,
      this.#onTimer,
    );
    block.timestampOffset = this.#digest(place, 'timestamps').readInt32BE(0);
    this.#table.add(block);
    return block;
  }

  /** Sends the first SYN, or the answer to one. */
  #call(block: ControlBlock): void {
    block.sendNext = advance(block.initialSendSequence, 1);
    block.handshakeSentMs = block.nowMs();
    block.retransmitMs = block.handshakeSentMs + block.roundTrip.timeoutMs;
    sendSyn(block);
    rearm(block);
  }

  #connected(block: ControlBlock): void {
    if (block.owner !== undefined) {
      block.owner.onConnected();
      return;
    }
    const listener = this.#listeners.get(block.localPort);
    if (listener === undefined || !listener.accept(block)) this.abort(block);
  }

  #touchReceived(block: ControlBlock): void {
    if (block.isTouched) return;
    block.isTouched = true;
    this.#touched.push(block);
  }

  readonly #turn = () => {
    this.#isTurnDue = false;
    this.#endBatch();
  };

  /** Lets readers have what came, and sends what there is to send. */
  #endBatch(): void {
    // Owners that write within are touched again, and then have their turn here too.
    for (let index = 0; index < this.#touched.length; index += 1) {
      const block = this.#touched[index] as ControlBlock;
      block.isTouched = false;
      this.#tellReader(block);
      if (block.isReceiving && isWindowUpdateDue(block)) block.mustAcknowledge = true;
      output(block);
      armPersist(block);
      rearm(block);
      this.#noteBlocked(block);
    }
    this.#touched = [];
  }

  #tellReader(block: ControlBlock): void {
    const hasNews = block.receiveBuffer.length > 0 || block.isEndReceived;
    if (block.owner === undefined || block.isToldSoon || !hasNews) return;
    block.isToldSoon = true;
    this.#readable.push(block);
    if (this.#readable.length === 1) setImmediate(this.#tellReaders);
  }

  readonly #tellReaders = () => {
    for (const block of this.#readable.splice(0)) {
      block.isToldSoon = false;
      block.owner?.onReadable();
      // A peer that has filled the window waits to hear that there is room again.
      if (block.isReceiving && isWindowUpdateDue(block)) this.touch(block);
    }
  };

  #noteBlocked(block: ControlBlock): void {
    if (block.isBlocked) this.#blocked.add(block);
  }

  #unblock(): void {
    for (const block of this.#blocked) {
      block.isBlocked = false;
      this.touch(block);
    }
    this.#blocked.clear();
  }

  #challenge(block: ControlBlock): void {
    if (!this.#challenges.take()) return;
    this.counts.challenged += 1;
    block.mustAcknowledge = true;
  }

  #waitOut(block: ControlBlock): void {
    block.state = 'time-wait';
    block.retransmitMs = NEVER;
    block.tailProbeMs = NEVER;
    block.reorderMs = NEVER;
    block.persistMs = NEVER;
    block.keepAliveMs = NEVER;
    block.stateEndMs = block.nowMs() + this.settings.timeWaitMs;
    block.sent.clear();
    block.sendBuffer.clear();
    block.timer.release();
    this.#timeWaits.add(block);
    if (this.#timeWaits.size > TIME_WAITS_MAX) this.#forgetTimeWait();
  }

  /** Makes room for a connection by forgetting the oldest that is over. */
  #forgetTimeWait(): boolean {
    const oldest = this.#timeWaits.values().next().value;
    if (oldest === undefined) return false;
    this.close(oldest, undefined);
    return true;
  }

  /** Answers a segment that belongs nowhere (RFC 9293, section 3.5.2). */
  #reset(localAddress: number, remoteAddress: number, segment: TcpSegment): void {
    if (segment.has(TCP_RST) || isMulticast(remoteAddress)) return;
    const { output: writer, link } = this.ipv4;
    const neighbour = writer.route(remoteAddress);
    const start = writer.begin(TCP_HEADER_BYTES);
    if (neighbour === undefined || start < 0) return;
    const isAck = segment.has(TCP_ACK);
    writeTcp(
      link.bytes,
      start,
      TCP_HEADER_BYTES,
      segment.destinationPort,
      segment.sourcePort,
      isAck ? segment.acknowledgement : 0,
      isAck ? 0 : advance(segment.sequence, segment.sequenceLength),
      isAck ? TCP_RST : TCP_RST | TCP_ACK,
      0,
    );
    writeTcpChecksum(link.bytes, start, TCP_HEADER_BYTES, localAddress, remoteAddress);
    writer.finish(
      neighbour,
      start,
      TCP_HEADER_BYTES,
      PROTOCOL_TCP,
      localAddress,
      remoteAddress,
      false,
      0,
    );
  }

  /** Nobody answers for a neighbour: who calls by it hears so. */
  #takeUnreachable(neighbour: number): void {
    for (const block of [...this.#table]) {
      if (block.neighbour?.address !== neighbour || block.state !== 'syn-sent') continue;
      this.close(block, unreachable(formatAddress(block.remoteAddress)));
    }
  }

  /** Believes an error only about what is in flight (RFC 5927); a hard one ends only a call. */
  #takeError(error: IcmpError): void {
    const { bytes, offset, destination } = error;
    const [localPort, remotePort] = [readU16(bytes, offset), readU16(bytes, offset + 2)];
    const block = this.#table.find(this.ipv4.address, localPort, destination, remotePort);
    if (block === undefined || !isInFlight(block, readI32(bytes, offset + 4))) return;
    if (error.type !== ICMP_UNREACHABLE) return;
    if (error.code === UNREACHABLE_FRAGMENTATION) {
      this.ipv4.pathMtus.learn(destination, error.mtu, this.ipv4.link.mtu);
      this.#narrow(block);
      return;
    }
    if (block.state !== 'syn-sent') return;
    const isRefusal = error.code === UNREACHABLE_PORT || error.code === UNREACHABLE_PROTOCOL;
    const refused = new StackError('ECONNREFUSED', 'The peer refused the connection.');
    this.close(block, isRefusal ? refused : unreachable(formatAddress(destination)));
  }

  /** The path takes less than was thought: what was too long goes again in smaller pieces. */
  #narrow(block: ControlBlock): void {
    const before = block.segmentBytes;
    updateSegmentBytes(block, false);
    if (block.segmentBytes >= before) return;
    block.sent.resegment(block.segmentBytes);
    this.touch(block);
  }

  #freePort(isFree: (port: number) => boolean): number {
    const start = this.ipv4.random.u32() % EPHEMERAL_PORTS;
    for (let step = 0; step < EPHEMERAL_PORTS; step += 1) {
      const port = EPHEMERAL_PORT_FIRST + ((start + step) % EPHEMERAL_PORTS);
      if (isFree(port)) return port;
    }
    throw new StackError('EADDRINUSE', 'No TCP port is free.');
  }

  /** RFC 6528: a clock that nobody else can read, for it starts elsewhere for each connection. */
  #initialSequence(place: ConnectionPlace): number {
    const ticks = Math.floor(this.ipv4.clock.nowMs() * SEQUENCE_TICKS_PER_MS);
    return (this.#digest(place, 'sequence').readInt32BE(0) + (ticks % 0x1_0000_0000)) | 0;
  }

  #digest(place: ConnectionPlace, purpose: string): Buffer {
    const { localAddress, localPort, remoteAddress, remotePort } = place;
    const hmac = createHmac('sha256', this.#secret);
    hmac.update(`${purpose}/${localAddress}/${localPort}/${remoteAddress}/${remotePort}`);
    return hmac.digest();
  }
}
