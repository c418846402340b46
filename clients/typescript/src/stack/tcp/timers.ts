/**
 * What happens when nothing happens: retransmission (RFC 6298), probes of a lost tail (RFC 8985,
 * section 7), of a closed window (RFC 9293, section 3.8.6.1) and of life (3.8.4), acknowledgements that
 * waited long enough, and states that end by themselves. A connection has one timer, set to the
 * earliest of its times.
 */
import { StackError } from '../errors.js';
import { type ControlBlock, NEVER } from './control-block.js';
import {
  output,
  retransmit,
  sendAcknowledgement,
  sendNew,
  sendProbe,
  sendReset,
  sendSyn,
} from './output.js';
import { RTO_MAX_MS } from './round-trip.js';

/** How often something is sent again before the peer counts as gone: the same as Linux. */
const RETRANSMISSIONS_MAX = 15;
const RETRANSMISSIONS_WITHOUT_OWNER = 8;
const SYNS_MAX = 6;
const SYN_ANSWERS_MAX = 5;
const KEEP_ALIVE_PROBES = 9;
const KEEP_ALIVE_INTERVAL_MS = 75_000;
const TAIL_PROBE_MIN_MS = 10;
/** Room for the peer's delayed acknowledgement, where only one segment is out. */
const PEER_ACK_DELAY_MS = 200;

/** What a timer that ran out asks of whoever owns the connection. */
export interface TimerActions {
  /** Ends the connection. */
  close(block: ControlBlock, error: StackError | undefined): void;
}

/** Sets the timer to the earliest of all times. */
export function rearm(block: ControlBlock): void {
  block.timer.set(
    Math.min(
      block.retransmitMs,
      block.reorderMs,
      block.tailProbeMs,
      block.persistMs,
      block.acknowledgeMs,
      block.keepAliveMs,
      block.stateEndMs,
    ),
  );
}

/** Segments are in flight: waits for them, anew where `restart`. */
export function armRetransmission(block: ControlBlock, restart: boolean): void {
  const { sent, roundTrip } = block;
  if (sent.count === 0) {
    block.retransmitMs = NEVER;
    block.tailProbeMs = NEVER;
    block.reorderMs = NEVER;
    return;
  }
  const nowMs = block.nowMs();
  block.persistMs = NEVER;
  if (restart || block.retransmitMs === NEVER) block.retransmitMs = nowMs + roundTrip.timeoutMs;
  const mayProbe = block.sackEnabled && !block.isRecovering && !block.isTailProbed;
  if (!mayProbe || sent.sackedCount > 0 || roundTrip.smoothedMs === 0) {
    block.tailProbeMs = NEVER;
    return;
  }
  const patience = sent.count === 1 ? PEER_ACK_DELAY_MS : 0;
  const probeMs = nowMs + Math.max(TAIL_PROBE_MIN_MS, 2 * roundTrip.smoothedMs) + patience;
  block.tailProbeMs = probeMs < block.retransmitMs ? probeMs : NEVER;
}

/** Waits for a window where there is data that it keeps back and nothing in flight to answer. */
export function armPersist(block: ControlBlock): void {
  const isKept = block.unsentBytes > 0 || (block.isEndQueued && !block.isFinSent);
  if (block.sent.count > 0 || !isKept || !block.isSynchronized || block.isBlocked) {
    block.persistMs = NEVER;
  } else if (block.persistMs === NEVER) {
    block.persistMs = block.nowMs() + block.roundTrip.timeoutMs;
  }
}

export function startKeepAlive(block: ControlBlock): void {
  block.keepAliveMs = block.lastHeardMs + block.keepAliveIdleMs;
  rearm(block);
}

/** Something was due. */
export function onTimer(block: ControlBlock, actions: TimerActions): void {
  const nowMs = block.nowMs();
  if (nowMs >= block.stateEndMs) {
    actions.close(block, block.state === 'time-wait' ? undefined : timedOut());
    return;
  }
  const isGivenUp =
    (nowMs >= block.retransmitMs && !onRetransmission(block)) ||
    (nowMs >= block.keepAliveMs && !onKeepAlive(block, nowMs)) ||
    (nowMs >= block.persistMs && !onPersist(block, nowMs));
  if (isGivenUp) {
    // A peer that lives, and only was not heard, need not wait for ever.
    if (block.isSynchronized) sendReset(block);
    actions.close(block, timedOut());
    return;
  }
  if (nowMs >= block.reorderMs) onReorder(block);
  if (nowMs >= block.tailProbeMs) onTailProbe(block);
  if (nowMs >= block.acknowledgeMs) sendAcknowledgement(block);
  output(block);
  rearm(block);
}

/** The timeout (RFC 6298, section 5.4): false where it happened too often. */
function onRetransmission(block: ControlBlock): boolean {
  const { roundTrip, sent } = block;
  if (block.state === 'syn-sent' || block.state === 'syn-received') return onHandshake(block);
  const max = block.owner === undefined ? RETRANSMISSIONS_WITHOUT_OWNER : RETRANSMISSIONS_MAX;
  if (roundTrip.doublings >= max) return false;
  const isFirst = roundTrip.doublings === 0 && !block.isRecovering;
  roundTrip.backOff();
  block.congestion.onTimeout(isFirst);
  if (isFirst) block.retransmissions.open(block.sendUnacknowledged);
  else block.retransmissions.close();
  if (sent.sackedCount > 0 && roundTrip.doublings > 2) sent.forgetSacks();
  sent.markAllLost();
  block.isRecovering = true;
  block.recoveryEnd = block.sendNext;
  block.duplicateAcks = 0;
  block.isTailProbed = false;
  block.tailProbeMs = NEVER;
  block.reorderMs = NEVER;
  block.retransmitMs = block.nowMs() + roundTrip.timeoutMs;
  return true;
}

function onHandshake(block: ControlBlock): boolean {
  const { roundTrip } = block;
  const max = block.state === 'syn-sent' ? SYNS_MAX : SYN_ANSWERS_MAX;
  if (roundTrip.doublings >= max) return false;
  roundTrip.backOff();
  sendSyn(block);
  block.retransmitMs = block.nowMs() + roundTrip.timeoutMs;
  return true;
}

/** Enough time has passed for what was late: what is not there now is lost. */
function onReorder(block: ControlBlock): void {
  block.reorderMs = NEVER;
  detectLoss(block);
}

/** Looks for losses, and slows down for the first of a window. */
export function detectLoss(block: ControlBlock): void {
  const { sent, loss, roundTrip } = block;
  loss.begin(block.nowMs());
  const lostBefore = sent.lostCount;
  const waitMs = loss.detect(sent, roundTrip.smoothedMs, block.isRecovering);
  block.reorderMs = waitMs > 0 ? block.nowMs() + waitMs : NEVER;
  if (sent.lostCount > lostBefore) enterRecovery(block);
}

export function enterRecovery(block: ControlBlock): void {
  if (block.isRecovering) return;
  block.isRecovering = true;
  block.recoveryEnd = block.sendNext;
  block.congestion.onLoss();
  block.loss.onRecovery();
  block.isRetransmissionDue = true;
  block.retransmissions.open(block.sendUnacknowledged);
}

/** Asks about the tail: with the next data, or else with the last segment once more. */
function onTailProbe(block: ControlBlock): void {
  block.tailProbeMs = NEVER;
  block.isTailProbed = true;
  if (block.sent.count === 0) return;
  if (!sendNew(block, block.segmentBytes)) retransmit(block, block.sent.end - 1);
  block.retransmitMs = block.nowMs() + block.roundTrip.timeoutMs;
}

/** A peer that answers may keep its window closed for as long as it likes, if somebody waits. */
function onPersist(block: ControlBlock, nowMs: number): boolean {
  if (block.probesUnanswered >= RETRANSMISSIONS_MAX) return false;
  if (block.owner === undefined && block.roundTrip.doublings >= RETRANSMISSIONS_WITHOUT_OWNER) {
    return false;
  }
  block.probesUnanswered += 1;
  block.roundTrip.backOff();
  sendProbe(block);
  block.persistMs = nowMs + Math.min(RTO_MAX_MS, block.roundTrip.timeoutMs);
  return true;
}

function onKeepAlive(block: ControlBlock, nowMs: number): boolean {
  const idleMs = nowMs - block.lastHeardMs;
  if (block.sent.count > 0 || idleMs < block.keepAliveIdleMs) {
    block.keepAliveMs = nowMs + block.keepAliveIdleMs - Math.min(idleMs, block.keepAliveIdleMs / 2);
    return true;
  }
  if (block.probesUnanswered >= KEEP_ALIVE_PROBES) return false;
  block.probesUnanswered += 1;
  sendProbe(block);
  block.keepAliveMs = nowMs + KEEP_ALIVE_INTERVAL_MS;
  return true;
}

function timedOut(): StackError {
  return new StackError('ETIMEDOUT', 'The peer does not answer.');
}
