/**
 * A segment arrives (RFC 9293, section 3.10.7, in its order of checks), with the hardening of RFC 5961:
 * a reset must hit the very next sequence number, and what could be a blind guess is answered by an
 * acknowledgement that a true peer corrects, so many in a second.
 */
import { StackError } from '../errors.js';
import { TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, type TcpSegment } from '../wire/tcp.js';
import { type ControlBlock, NEVER } from './control-block.js';
import { sendSyn, shiftFor, updateSegmentBytes } from './output.js';
import { advance, distance, isBefore, laterOf } from './sequence.js';
import { endRecovery, judgeEcho, takeDuplicate } from './spurious.js';
import { armPersist, armRetransmission, detectLoss, enterRecovery } from './timers.js';

/** Timestamps older than this say nothing (RFC 7323, section 5.5). */
const TIMESTAMP_AGE_MAX_MS = 24 * 24 * 3600 * 1000;
const DUPLICATES_MAX = 3;
/** How long a connection that nobody owns waits for the peer's end. */
const FIN_WAIT_2_MS = 60_000;

/** What input asks of whoever keeps the connections. */
export interface InputActions {
  /** Ends a connection. */
  close(block: ControlBlock, error: StackError | undefined): void;
  /** The handshake is done. */
  connected(block: ControlBlock): void;
  /** Answers a segment that makes no sense here by a reset. */
  refuse(block: ControlBlock, segment: TcpSegment): void;
  /** Acknowledges what could be an attack, unless that was done too often. */
  challenge(block: ControlBlock): void;
  /** The connection has reached TIME-WAIT. */
  waitOut(block: ControlBlock): void;
}

/** Takes a segment whose payload is in `bytes`. What is to be sent is sent at the end of the batch. */
export function input(
  block: ControlBlock,
  segment: TcpSegment,
  bytes: Uint8Array,
  actions: InputActions,
): void {
  if (block.state === 'syn-sent') {
    inputSynSent(block, segment, actions);
    return;
  }
  if (isRepeatedSyn(block, segment)) {
    sendSyn(block);
    return;
  }
  if (isOlder(block, segment)) {
    // Acknowledgements that overtook each other are common, and nobody waits to hear of them.
    if (segment.sequenceLength > 0) rejectUnacceptable(block, segment, actions);
    return;
  }
  if (!isAcceptable(block, segment)) {
    if (!segment.has(TCP_RST)) rejectUnacceptable(block, segment, actions);
    return;
  }
  if (segment.has(TCP_RST)) {
    // What has ended in order stays so, whatever an old segment brings about (RFC 1337).
    if (block.state === 'time-wait') return;
    if (segment.sequence === block.receiveNext) actions.close(block, resetError(block));
    else actions.challenge(block);
    return;
  }
  if (segment.has(TCP_SYN)) {
    actions.challenge(block);
    return;
  }
  if (!segment.has(TCP_ACK)) return;
  block.lastHeardMs = block.nowMs();
  if (block.state === 'syn-received' && !completeHandshake(block, segment, actions)) return;
  if (!checkAcknowledgement(block, segment, actions)) return;
  rememberTimestamp(block, segment);
  acknowledge(block, segment);
  // Our end was acknowledged, which may have ended it all.
  if (!afterAcknowledgement(block, segment, actions)) return;
  takePayload(block, segment, bytes, actions);
  if (segment.has(TCP_FIN)) noteFin(block, segment);
  takeFin(block, actions);
}

/** SYN-SENT: section 3.10.7.3. */
function inputSynSent(block: ControlBlock, segment: TcpSegment, actions: InputActions): void {
  const isAck = segment.has(TCP_ACK);
  if (isAck && segment.acknowledgement !== block.sendNext) {
    if (!segment.has(TCP_RST)) actions.refuse(block, segment);
    return;
  }
  if (segment.has(TCP_RST)) {
    if (isAck) actions.close(block, refused());
    return;
  }
  if (!segment.has(TCP_SYN)) return;
  block.lastHeardMs = block.nowMs();
  takeOffer(block, segment);
  if (!isAck) {
    // Both sides called at once.
    block.state = 'syn-received';
    sendSyn(block);
    return;
  }
  block.sendUnacknowledged = segment.acknowledgement;
  sampleHandshake(block);
  setWindow(block, segment, segment.window);
  block.receiveEdge = block.receiveNext;
  block.mustAcknowledge = true;
  establish(block, actions);
}

/** Takes the peer's sequence number and what it offers; what both offer holds. */
export function takeOffer(block: ControlBlock, segment: TcpSegment): void {
  const { settings } = block;
  block.initialReceiveSequence = segment.sequence;
  block.receiveNext = advance(segment.sequence, 1);
  block.receiveEdge = block.receiveNext;
  block.lastAcknowledgementSent = block.receiveNext;
  block.sackEnabled = settings.sack && segment.sackPermitted;
  block.timestampsEnabled = settings.timestamps && segment.hasTimestamps;
  if (block.timestampsEnabled) {
    block.timestampRecent = segment.timestamp;
    block.timestampRecentMs = block.nowMs();
  }
  if (settings.windowScaling && segment.windowShift >= 0) {
    block.sendShift = segment.windowShift;
    block.receiveShift = shiftFor(settings.receiveBufferBytes);
  }
  block.peerSegmentBytes = Math.max(64, segment.mss === 0 ? 536 : segment.mss);
  updateSegmentBytes(block, true);
  block.sendWindow = segment.window;
  block.sendWindowMax = segment.window;
  block.windowSequence = segment.sequence;
  block.windowAcknowledgement = segment.acknowledgement;
}

/** The peer did not hear our answer to its SYN. */
function isRepeatedSyn(block: ControlBlock, segment: TcpSegment): boolean {
  return (
    block.state === 'syn-received' &&
    (segment.flags & (TCP_SYN | TCP_RST)) === TCP_SYN &&
    segment.sequence === block.initialReceiveSequence
  );
}

/** Whether the segment was sent before what was heard since (PAWS: RFC 7323, section 5). */
function isOlder(block: ControlBlock, segment: TcpSegment): boolean {
  if (!block.timestampsEnabled || !segment.hasTimestamps || segment.has(TCP_RST)) return false;
  if (!isBefore(segment.timestamp, block.timestampRecent)) return false;
  return block.nowMs() - block.timestampRecentMs < TIMESTAMP_AGE_MAX_MS;
}

/** Whether any of the segment is in the window, and it has the timestamps that were agreed on. */
function isAcceptable(block: ControlBlock, segment: TcpSegment): boolean {
  if (block.timestampsEnabled && !segment.hasTimestamps && !segment.has(TCP_RST)) return false;
  const { receiveNext, receiveEdge } = block;
  const start = segment.sequence;
  const end = advance(start, segment.sequenceLength);
  if (start === end) {
    return start === receiveNext || (!isBefore(start, receiveNext) && isBefore(start, receiveEdge));
  }
  if (start === receiveNext && receiveNext === receiveEdge) {
    // The window is closed, but acknowledgements and ends count all the same.
    return segment.payloadBytes === 0;
  }
  return isBefore(start, receiveEdge) && isBefore(receiveNext, end);
}

function rejectUnacceptable(block: ControlBlock, segment: TcpSegment, actions: InputActions): void {
  const end = advance(segment.sequence, segment.sequenceLength);
  const isRepeat =
    segment.sequenceLength > 0 &&
    !isBefore(block.receiveNext, end) &&
    distance(segment.sequence, block.receiveNext) <= block.settings.receiveBufferBytes;
  if (isRepeat && block.sackEnabled && segment.payloadBytes > 0) {
    noteDuplicate(block, segment.sequence, end);
  }
  if (block.state === 'time-wait' && segment.has(TCP_FIN)) {
    block.stateEndMs = block.nowMs() + block.settings.timeWaitMs;
  }
  // A probe of a window that is closed begins where the window does.
  const isProbe =
    !isBefore(segment.sequence, block.receiveNext) &&
    !isBefore(block.receiveEdge, segment.sequence);
  if (isRepeat || isProbe) block.mustAcknowledge = true;
  else actions.challenge(block);
}

function completeHandshake(
  block: ControlBlock,
  segment: TcpSegment,
  actions: InputActions,
): boolean {
  if (segment.acknowledgement !== block.sendNext) {
    actions.refuse(block, segment);
    return false;
  }
  block.sendUnacknowledged = segment.acknowledgement;
  sampleHandshake(block);
  setWindow(block, segment, segment.window << block.sendShift);
  establish(block, actions);
  return true;
}

function establish(block: ControlBlock, actions: InputActions): void {
  block.state = 'established';
  block.retransmitMs = NEVER;
  block.stateEndMs = NEVER;
  block.lastSentMs = block.nowMs();
  actions.connected(block);
}

function sampleHandshake(block: ControlBlock): void {
  if (block.roundTrip.doublings === 0) {
    block.roundTrip.sample(block.nowMs() - block.handshakeSentMs);
  }
  block.roundTrip.progress();
}

/** RFC 5961, section 5.2: not for what was never sent, and not older than a window. */
function checkAcknowledgement(
  block: ControlBlock,
  segment: TcpSegment,
  actions: InputActions,
): boolean {
  const { acknowledgement } = segment;
  const oldest = advance(block.sendUnacknowledged, -Math.max(65535, block.sendWindowMax));
  if (isBefore(block.sendNext, acknowledgement) || isBefore(acknowledgement, oldest)) {
    actions.challenge(block);
    return false;
  }
  return true;
}

/** RFC 7323, section 4.3: the timestamp of what will be acknowledged next. */
function rememberTimestamp(block: ControlBlock, segment: TcpSegment): void {
  if (!block.timestampsEnabled || !segment.hasTimestamps) return;
  if (isBefore(block.lastAcknowledgementSent, segment.sequence)) return;
  if (isBefore(segment.timestamp, block.timestampRecent)) return;
  block.timestampRecent = segment.timestamp;
  block.timestampRecentMs = block.nowMs();
}

/** What the peer says it has. */
function acknowledge(block: ControlBlock, segment: TcpSegment): void {
  const { sent, loss, roundTrip } = block;
  const nowMs = block.nowMs();
  const { acknowledgement } = segment;
  const acked = distance(block.sendUnacknowledged, acknowledgement);
  block.probesUnanswered = 0;
  if (acked < 0) {
    // Later ones came first, but what this one says of gaps and duplicates is still so.
    loss.begin(nowMs);
    if (block.sackEnabled) followLoss(block, 0, takeSacks(block, segment), false);
    return;
  }
  const window = segment.window << block.sendShift;
  const isDuplicate =
    acked === 0 && segment.sequenceLength === 0 && window === block.sendWindow && sent.count > 0;
  loss.begin(nowMs);
  if (acked > 0) {
    const data = Math.min(acked, block.sendBuffer.length);
    block.sendBuffer.release(data);
    block.sendUnacknowledged = acknowledgement;
    sent.acknowledge(acknowledgement, loss);
    block.isTailProbed = false;
    judgeEcho(block, segment);
  }
  const news = block.sackEnabled ? takeSacks(block, segment) : 0;
  if (loss.sampleMs >= 0) roundTrip.sample(loss.sampleMs);
  else if (acked > 0) roundTrip.progress();
  updateWindow(block, segment, window);
  followLoss(block, acked, news, isDuplicate);
  if (acked > 0 && (!block.isRecovering || block.congestion.isSlowStart)) {
    growWindow(block, acked, nowMs);
  }
  armRetransmission(block, acked > 0);
  if (acked > 0 || news > 0) block.owner?.onWritable();
}

function growWindow(block: ControlBlock, acked: number, nowMs: number): void {
  const { congestion, roundTrip } = block;
  const wasLimited =
    block.isWindowLimited || block.sent.outstandingBytes + acked >= congestion.windowBytes / 2;
  if (wasLimited) congestion.onAcknowledged(acked, nowMs, roundTrip.smoothedMs);
}

/** Answers how many bytes are newly known to have arrived. */
function takeSacks(block: ControlBlock, segment: TcpSegment): number {
  let news = 0;
  for (let index = 0; index < segment.sackCount; index += 1) {
    const left = segment.sackEdges[index * 2] as number;
    const right = segment.sackEdges[index * 2 + 1] as number;
    if (!isBefore(left, right)) continue;
    if (index === 0 && isDuplicateReport(block, segment)) takeDuplicate(block, left, right);
    if (!isBefore(block.sendUnacknowledged, right)) continue;
    const isOurs = !isBefore(left, block.sendUnacknowledged) && !isBefore(block.sendNext, right);
    if (isOurs) news += block.sent.sack(left, right, block.loss);
  }
  return news;
}

/** Whether the first block tells of something that came twice (RFC 2883, section 4). */
function isDuplicateReport(block: ControlBlock, { sackCount, sackEdges }: TcpSegment): boolean {
  const [left = 0, right = 0, nextLeft = 0, nextRight = 0] = sackEdges;
  if (!isBefore(block.sendUnacknowledged, right)) return true;
  return sackCount > 1 && !isBefore(left, nextLeft) && !isBefore(nextRight, right);
}

function followLoss(block: ControlBlock, acked: number, news: number, isDuplicate: boolean): void {
  const { sent } = block;
  if (block.isRecovering && !isBefore(block.sendUnacknowledged, block.recoveryEnd)) {
    endRecovery(block);
  }
  if (block.sackEnabled) {
    if (sent.sackedCount > 0 || block.isRecovering || news > 0) {
      const sampleMs = block.loss.sampleMs;
      detectLoss(block);
      block.loss.sampleMs = sampleMs;
    } else block.reorderMs = NEVER;
    return;
  }
  // Without SACK: RFC 5681 and RFC 6582.
  if (acked > 0) {
    block.duplicateAcks = block.isRecovering ? Math.max(0, block.duplicateAcks - 1) : 0;
    if (block.isRecovering && sent.count > 0) sent.markLost(sent.first);
  } else if (isDuplicate) {
    block.duplicateAcks += 1;
    if (block.duplicateAcks === DUPLICATES_MAX && !block.isRecovering) {
      sent.markLost(sent.first);
      enterRecovery(block);
    }
  }
}

function updateWindow(block: ControlBlock, segment: TcpSegment, window: number): void {
  const isNewer =
    isBefore(block.windowSequence, segment.sequence) ||
    (block.windowSequence === segment.sequence &&
      !isBefore(segment.acknowledgement, block.windowAcknowledgement));
  if (isNewer) setWindow(block, segment, window);
  armPersist(block);
}

function setWindow(block: ControlBlock, segment: TcpSegment, window: number): void {
  if (window > block.sendWindow) block.persistMs = NEVER;
  block.sendWindow = window;
  block.sendWindowMax = Math.max(block.sendWindowMax, window);
  block.windowSequence = segment.sequence;
  block.windowAcknowledgement = segment.acknowledgement;
}

/** States that end with the acknowledgement of our end. False: the connection is over. */
function afterAcknowledgement(
  block: ControlBlock,
  segment: TcpSegment,
  actions: InputActions,
): boolean {
  const isFinAcked = block.isFinSent && block.sendUnacknowledged === block.sendNext;
  switch (block.state) {
    case 'fin-wait-1':
      if (isFinAcked) {
        block.state = 'fin-wait-2';
        if (block.owner === undefined) block.stateEndMs = block.nowMs() + FIN_WAIT_2_MS;
      }
      return true;
    case 'closing':
      if (isFinAcked) actions.waitOut(block);
      return true;
    case 'last-ack':
      if (isFinAcked) actions.close(block, undefined);
      return !isFinAcked;
    case 'time-wait':
      if (segment.has(TCP_FIN)) block.mustAcknowledge = true;
      return true;
    default:
      return true;
  }
}

/** Takes what is in the window, in order or not. */
function takePayload(
  block: ControlBlock,
  segment: TcpSegment,
  bytes: Uint8Array,
  actions: InputActions,
): void {
  if (segment.payloadBytes === 0 || !block.isReceiving) return;
  if (block.owner === undefined) {
    // Nobody will ever read it, and the peer had better know (RFC 9293, section 3.6.1).
    actions.refuse(block, segment);
    actions.close(block, undefined);
    return;
  }
  const { receiveNext, receiveEdge } = block;
  const repeated = Math.max(0, distance(segment.sequence, receiveNext));
  const start = advance(segment.sequence, repeated);
  const end = advance(segment.sequence, segment.payloadBytes);
  const beyond = Math.max(0, distance(receiveEdge, end));
  const count = distance(start, end) - beyond;
  const offset = segment.payloadOffset + repeated;
  if (repeated > 0 && block.sackEnabled)
    noteDuplicate(block, segment.sequence, laterOf(start, segment.sequence));
  // A peer that overruns the window learns where it is.
  if (beyond > 0 || repeated > 0) block.mustAcknowledge = true;
  if (count <= 0) return;
  if (start !== receiveNext) {
    block.outOfOrder.insert(start, bytes, offset, count);
    block.mustAcknowledge = true;
    block.quickAcks = Math.max(block.quickAcks, 4);
    return;
  }
  takeInOrder(block, bytes, offset, count);
}

function takeInOrder(block: ControlBlock, bytes: Uint8Array, offset: number, count: number): void {
  block.receiveBuffer.append(bytes, offset, count);
  block.receiveNext = advance(block.receiveNext, count);
  if (!block.outOfOrder.isEmpty) {
    const more = block.outOfOrder.drain(block.receiveNext, (ring, from, length) =>
      block.receiveBuffer.append(ring, from, length),
    );
    block.receiveNext = advance(block.receiveNext, more);
    // A gap was filled, or one is left: the sender waits to hear of it.
    block.mustAcknowledge = true;
  }
  block.unacknowledgedBytes += count;
  if (block.quickAcks > 0) {
    block.quickAcks -= 1;
    block.mustAcknowledge = true;
  }
  if (block.unacknowledgedBytes >= 2 * block.segmentBytes) block.mustAcknowledge = true;
  else if (block.acknowledgeMs === NEVER) {
    block.acknowledgeMs = block.nowMs() + block.settings.ackDelayMs;
  }
}

function noteFin(block: ControlBlock, segment: TcpSegment): void {
  if (!block.isReceiving || block.finSequence !== undefined) return;
  const sequence = advance(segment.sequence, segment.payloadBytes);
  if (isBefore(sequence, block.receiveNext)) return;
  block.finSequence = sequence;
}

/** The peer's end counts when all before it is there. */
function takeFin(block: ControlBlock, actions: InputActions): void {
  if (block.finSequence !== block.receiveNext || !block.isReceiving) return;
  block.receiveNext = advance(block.receiveNext, 1);
  block.receiveEdge = laterOf(block.receiveEdge, block.receiveNext);
  block.isEndReceived = true;
  block.mustAcknowledge = true;
  block.outOfOrder.clear();
  if (block.state === 'established') block.state = 'close-wait';
  else if (block.state === 'fin-wait-1') block.state = 'closing';
  else actions.waitOut(block);
}

function noteDuplicate(block: ControlBlock, start: number, end: number): void {
  // Those that lie together are told together.
  const isNext = block.hasDuplicate && block.duplicateEnd === start;
  if (!isNext) block.duplicateStart = start;
  block.duplicateEnd = end;
  block.hasDuplicate = true;
}

function resetError(block: ControlBlock): StackError {
  if (block.state === 'syn-received') return refused();
  return new StackError('ECONNRESET', 'The peer reset the connection.');
}

function refused(): StackError {
  return new StackError('ECONNREFUSED', 'The peer refused the connection.');
}
