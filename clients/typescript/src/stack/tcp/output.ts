/**
 * What a connection sends and when: data as far as both windows allow (RFC 9293, section 3.8.6; RFC
 * 5681), lost segments first, Nagle's rule, acknowledgements, and windows that do not grow by crumbs.
 */
import type { Neighbour } from '../neighbours.js';
import { writeU16, writeU32 } from '../wire/bytes.js';
import { IPV4_HEADER_BYTES, PROTOCOL_TCP } from '../wire/ipv4.js';
import {
  OPTION_SYN_BYTES_MAX,
  OPTION_TIMESTAMPS_BYTES,
  TCP_ACK,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_PSH,
  TCP_RST,
  TCP_SYN,
  WINDOW_SHIFT_MAX,
  writeBlankTcpChecksum,
  writeTcp,
  writeTcpChecksum,
  writeTimestamps,
} from '../wire/tcp.js';
import { type ControlBlock, NEVER } from './control-block.js';
import { advance, distance, isBefore } from './sequence.js';
import { armRetransmission, rearm } from './timers.js';

const SACK_BLOCKS_WITH_TIMESTAMPS = 3;
const SACK_BLOCKS_ALONE = 4;
/** Below this nothing is worth leaving to the link. */
const SEGMENTS_WORTH_LARGE = 2;

const sackEdges = new Int32Array(2 * SACK_BLOCKS_ALONE);

/** Sends whatever may be sent now, and an acknowledgement where one is due and nothing carried it. */
export function output(block: ControlBlock): void {
  if (block.state === 'closed') return;
  if (block.isSynchronized && block.state !== 'time-wait') sendData(block);
  if (block.mustAcknowledge) sendAcknowledgement(block);
  rearm(block);
}

/** Sends SYN, or SYN and ACK, with what we offer or accept (RFC 9293, 3.7.1; RFC 7323; RFC 2018). */
export function sendSyn(block: ControlBlock): void {
  const neighbour = routeOf(block);
  const { output: writer, link } = block.ipv4;
  if (neighbour === undefined) return;
  const start = writer.begin(TCP_HEADER_BYTES + OPTION_SYN_BYTES_MAX);
  if (start < 0) return;
  const { bytes } = link;
  const isAnswer = block.state === 'syn-received';
  const { settings } = block;
  let position = start + TCP_HEADER_BYTES;
  writeU32(bytes, position, 0x0204_0000 | (link.mtu - IPV4_HEADER_BYTES - TCP_HEADER_BYTES));
  position += 4;
  if (isAnswer ? block.sackEnabled : settings.sack) {
    writeU32(bytes, position, 0x0101_0402);
    position += 4;
  }
  if (isAnswer ? block.timestampsEnabled : settings.timestamps) {
    position = writeTimestamps(bytes, position, block.timestamp(), block.timestampRecent);
  }
  if (isAnswer ? block.receiveShift > 0 : settings.windowScaling) {
    const shift = isAnswer ? block.receiveShift : shiftFor(settings.receiveBufferBytes);
    writeU32(bytes, position, 0x0103_0300 | shift);
    position += 4;
  }
  // The window of a SYN is never scaled.
  const window = Math.min(65535, settings.receiveBufferBytes);
  const flags = isAnswer ? TCP_SYN | TCP_ACK : TCP_SYN;
  const acknowledgement = isAnswer ? block.receiveNext : 0;
  writeTcp(
    bytes,
    start,
    position - start,
    block.localPort,
    block.remotePort,
    block.initialSendSequence,
    acknowledgement,
    flags,
    window,
  );
  if (isAnswer) {
    block.receiveEdge = advance(block.receiveNext, window);
    block.lastAcknowledgementSent = block.receiveNext;
  }
  finish(block, neighbour, start, position - start, 0);
}

/** Resets the peer's side. */
export function sendReset(block: ControlBlock): void {
  const neighbour = routeOf(block);
  if (neighbour === undefined) return;
  const start = block.ipv4.output.begin(TCP_HEADER_BYTES);
  if (start < 0) return;
  writeTcp(
    block.ipv4.link.bytes,
    start,
    TCP_HEADER_BYTES,
    block.localPort,
    block.remotePort,
    block.sendNext,
    block.receiveNext,
    TCP_RST | TCP_ACK,
    0,
  );
  finish(block, neighbour, start, TCP_HEADER_BYTES, 0);
}

/** Tells what has arrived, and of gaps what is behind them. */
export function sendAcknowledgement(block: ControlBlock): void {
  sendSegment(block, block.sendNext, 0, 0, TCP_ACK, 0);
}

/** Sends what the peer has already, so that it says what it has: of windows and of life. */
export function sendProbe(block: ControlBlock): void {
  sendSegment(block, advance(block.sendUnacknowledged, -1), 0, 0, TCP_ACK, 0);
}

/** The shift that lets a window of so many bytes be told. */
export function shiftFor(windowBytes: number): number {
  let shift = 0;
  while (shift < WINDOW_SHIFT_MAX && windowBytes >> shift > 65535) shift += 1;
  return shift;
}

/** Payload of a full segment, for what the peer and the path take. */
export function updateSegmentBytes(block: ControlBlock, isFirst: boolean): void {
  const path = block.ipv4.output.pathMtu(block.remoteAddress);
  const bytes = Math.min(block.peerSegmentBytes, path - IPV4_HEADER_BYTES - TCP_HEADER_BYTES);
  const options = block.timestampsEnabled ? OPTION_TIMESTAMPS_BYTES : 0;
  block.segmentBytes = Math.max(8, bytes - options);
  block.congestion.setSegmentBytes(block.segmentBytes, isFirst);
}

/** Sends the segment again that was lost, or that is to be asked about. False: no room. */
export function retransmit(block: ControlBlock, record: number): boolean {
  const { sent } = block;
  const sequence = sent.sequence(record);
  const from = distance(block.sendUnacknowledged, sequence);
  const isFin = block.isFinSent && from === block.sendBuffer.length;
  const length = isFin ? 0 : sent.length(record);
  const flags = isFin ? TCP_ACK | TCP_FIN : TCP_ACK | TCP_PSH;
  if (!sendSegment(block, sequence, from, length, flags, 0)) return false;
  sent.markRetransmitted(record, block.nowMs());
  block.retransmissions.add(block.timestamp());
  return true;
}

/** The next step in the sequence: new data. False: nothing may be sent, or there is no room. */
export function sendNew(block: ControlBlock, allowedBytes: number): boolean {
  const unsent = block.unsentBytes;
  const isFinDue = block.isEndQueued && !block.isFinSent;
  const wanted = chooseLength(block, unsent, allowedBytes);
  if (wanted < 0 || (wanted === 0 && !(isFinDue && unsent === 0))) return false;
  if (block.sent.isFull) return false;
  const { segmentBytes, sendNext } = block;
  const isLast = wanted === unsent;
  const isFin = isLast && isFinDue;
  const large = wanted > segmentBytes ? segmentBytes : 0;
  const flags = TCP_ACK | (isLast ? TCP_PSH : 0) | (isFin ? TCP_FIN : 0);
  const from = distance(block.sendUnacknowledged, sendNext);
  if (!sendSegment(block, sendNext, from, wanted, flags, large)) return false;
  recordSent(block, wanted, isFin);
  return true;
}

function sendData(block: ControlBlock): void {
  const { sent, congestion } = block;
  if (sent.count === 0 && block.unsentBytes > 0) {
    if (block.nowMs() - block.lastSentMs > block.roundTrip.timeoutMs) congestion.onIdle();
  }
  block.isWindowLimited = false;
  let room = congestion.windowBytes - inFlight(block);
  while (block.isRetransmissionDue || room >= block.segmentBytes || sent.inFlightBytes === 0) {
    const lost = sent.firstLost();
    if (lost < 0) break;
    if (!retransmit(block, lost)) return;
    block.isRetransmissionDue = false;
    room = congestion.windowBytes - inFlight(block);
  }
  if (sent.lostCount > 0) return;
  while (sendNew(block, Math.max(room, sent.inFlightBytes === 0 ? block.segmentBytes : 0))) {
    room = congestion.windowBytes - inFlight(block);
  }
  block.isWindowLimited = block.unsentBytes > 0 && room < block.segmentBytes;
}

/** Without SACK, each duplicate acknowledgement stands for a segment that has left the network. */
function inFlight(block: ControlBlock): number {
  const guessed = block.sackEnabled ? 0 : block.duplicateAcks * block.segmentBytes;
  return Math.max(0, block.sent.inFlightBytes - guessed);
}

/**
 * How much of `unsent` to send in one go: whole segments, and less only where it is all there is and
 * Nagle's rule does not hold it back, or where the peer's window never gets larger. -1: nothing now.
 */
function chooseLength(block: ControlBlock, unsent: number, allowedBytes: number): number {
  const { segmentBytes, sendWindow } = block;
  const inWindow = sendWindow - distance(block.sendUnacknowledged, block.sendNext);
  // Congestion windows have fractions of bytes, and whole numbers are divided faster.
  const usable = Math.min(inWindow, allowedBytes) | 0;
  if (unsent === 0) return usable > 0 ? 0 : -1;
  let length = Math.min(unsent, usable, largestPayload(block));
  if (length <= 0) return -1;
  if (length >= segmentBytes) {
    if (length < unsent || !mayBeSmall(block)) length -= length % segmentBytes;
    return length;
  }
  if (length === unsent) return mayBeSmall(block) ? length : -1;
  // The congestion window opens again by itself; the peer's may stay as small as this.
  const isPeersLimit = inWindow <= allowedBytes;
  const isLargeForPeer = length >= block.sendWindowMax / 2;
  return isPeersLimit && (isLargeForPeer || block.sent.count === 0) ? length : -1;
}

/** Nagle's rule (RFC 9293, section 3.7.4): one small segment at a time. */
function mayBeSmall(block: ControlBlock): boolean {
  return block.noDelay || block.isEndQueued || block.sent.count === 0;
}

/** The most that one frame carries: as many segments as the link cuts up. */
function largestPayload(block: ControlBlock): number {
  const { largePacketBytes } = block.ipv4.link;
  const headers = IPV4_HEADER_BYTES + TCP_HEADER_BYTES + OPTION_TIMESTAMPS_BYTES;
  const segments = Math.floor((largePacketBytes - headers) / block.segmentBytes);
  return segments < SEGMENTS_WORTH_LARGE ? block.segmentBytes : segments * block.segmentBytes;
}

function recordSent(block: ControlBlock, length: number, isFin: boolean): void {
  const nowMs = block.nowMs();
  const { sent, segmentBytes } = block;
  const wasIdle = sent.count === 0;
  for (let from = 0; from < length; from += segmentBytes) {
    const sequence = advance(block.sendNext, from);
    sent.push(sequence, Math.min(segmentBytes, length - from), nowMs);
  }
  block.sendNext = advance(block.sendNext, length);
  if (isFin) {
    sent.push(block.sendNext, 1, nowMs);
    block.sendNext = advance(block.sendNext, 1);
    block.isFinSent = true;
    if (block.state === 'established') block.state = 'fin-wait-1';
    else if (block.state === 'close-wait') block.state = 'last-ack';
  }
  block.lastSentMs = nowMs;
  armRetransmission(block, wasIdle);
}

/** Writes a segment with options and hands it to IPv4. False where there is no room or route. */
function sendSegment(
  block: ControlBlock,
  sequence: number,
  from: number,
  length: number,
  flags: number,
  largeSegmentBytes: number,
): boolean {
  const neighbour = routeOf(block);
  if (neighbour === undefined) return false;
  const { output: writer, link } = block.ipv4;
  const sackCount = length === 0 ? collectSacks(block) : 0;
  const timestampBytes = block.timestampsEnabled ? OPTION_TIMESTAMPS_BYTES : 0;
  const sackBytes = sackCount === 0 ? 0 : 4 + 8 * sackCount;
  const headerBytes = TCP_HEADER_BYTES + timestampBytes + sackBytes;
  const start = writer.begin(headerBytes + length);
  if (start < 0) {
    block.isBlocked = true;
    return false;
  }
  const { bytes } = link;
  writeTcp(
    bytes,
    start,
    headerBytes,
    block.localPort,
    block.remotePort,
    sequence,
    block.receiveNext,
    flags,
    tellWindow(block),
  );
  let position = start + TCP_HEADER_BYTES;
  if (timestampBytes > 0) {
    position = writeTimestamps(bytes, position, block.timestamp(), block.timestampRecent);
  }
  if (sackCount > 0) writeSacks(bytes, position, sackCount);
  if (length > 0) block.sendBuffer.copyTo(from, length, bytes, start + headerBytes);
  finish(block, neighbour, start, headerBytes + length, largeSegmentBytes);
  block.lastAcknowledgementSent = block.receiveNext;
  block.unacknowledgedBytes = 0;
  block.mustAcknowledge = false;
  block.acknowledgeMs = NEVER;
  return true;
}

function finish(
  block: ControlBlock,
  neighbour: Neighbour,
  start: number,
  length: number,
  largeSegmentBytes: number,
): void {
  const { output: writer, link } = block.ipv4;
  const { localAddress, remoteAddress } = block;
  const isBlank = link.blanksChecksums;
  if (isBlank) writeBlankTcpChecksum(link.bytes, start, length, localAddress, remoteAddress);
  else writeTcpChecksum(link.bytes, start, length, localAddress, remoteAddress);
  writer.finish(
    neighbour,
    start,
    length,
    PROTOCOL_TCP,
    localAddress,
    remoteAddress,
    isBlank,
    largeSegmentBytes,
  );
}

/** The window to tell: what is free, but never less than was told, and not more by a crumb. */
function tellWindow(block: ControlBlock): number {
  const { receiveBufferBytes } = block.settings;
  const free = Math.max(0, receiveBufferBytes - block.unreadBytes);
  const edge = advance(block.receiveNext, free);
  const gained = distance(block.receiveEdge, edge);
  if (gained >= Math.min(receiveBufferBytes >> 1, block.segmentBytes)) block.receiveEdge = edge;
  const window = Math.max(0, distance(block.receiveNext, block.receiveEdge));
  return Math.min(65535, window >> block.receiveShift);
}

/** Whether the reader has made so much room that the peer is told without waiting. */
export function isWindowUpdateDue(block: ControlBlock): boolean {
  const { receiveBufferBytes } = block.settings;
  const free = Math.max(0, receiveBufferBytes - block.unreadBytes);
  const gained = distance(block.receiveEdge, advance(block.receiveNext, free));
  const told = distance(block.receiveNext, block.receiveEdge);
  const isAlmostClosed = told < 2 * block.segmentBytes && gained >= block.segmentBytes;
  return isAlmostClosed || gained >= receiveBufferBytes >> 1;
}

/** Gathers the blocks to tell: a duplicate first (RFC 2883), then what is behind gaps. */
function collectSacks(block: ControlBlock): number {
  if (!block.sackEnabled) return 0;
  if (!block.hasDuplicate && block.outOfOrder.isEmpty) return 0;
  const max = block.timestampsEnabled ? SACK_BLOCKS_WITH_TIMESTAMPS : SACK_BLOCKS_ALONE;
  if (!block.hasDuplicate) return block.outOfOrder.edges(sackEdges, max);
  const count = block.outOfOrder.edges(sackEdges, max - 1);
  sackEdges.copyWithin(2, 0, count * 2);
  sackEdges[0] = block.duplicateStart;
  sackEdges[1] = block.duplicateEnd;
  block.hasDuplicate = false;
  return count + 1;
}

function writeSacks(bytes: Uint8Array, position: number, count: number): void {
  writeU16(bytes, position, 0x0101);
  bytes[position + 2] = 5;
  bytes[position + 3] = 2 + 8 * count;
  for (let edge = 0; edge < count * 2; edge += 1) {
    writeU32(bytes, position + 4 + edge * 4, sackEdges[edge] as number);
  }
}

/** Who gets the packets, looked up again only when that may have changed. */
export function routeOf(block: ControlBlock): Neighbour | undefined {
  const { ipv4, neighbour } = block;
  if (neighbour?.isCurrent && block.routeGeneration === ipv4.generation) return neighbour;
  block.neighbour = ipv4.output.route(block.remoteAddress);
  block.routeGeneration = ipv4.generation;
  return block.neighbour;
}

/** Whether `sequence` is in flight: what an ICMP error must quote to be believed (RFC 5927). */
export function isInFlight(block: ControlBlock, sequence: number): boolean {
  return !isBefore(sequence, block.sendUnacknowledged) && isBefore(sequence, block.sendNext);
}
