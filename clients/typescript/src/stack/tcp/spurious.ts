/**
 * Recognises that nothing had been lost when something was sent again, and takes back that we slowed
 * down for it (RFC 4015). Two things tell: an acknowledgement that echoes a timestamp from before the
 * first retransmission (Eifel, RFC 3522), and duplicates that the peer reports of everything that was
 * sent again (RFC 3708). Both mean that segments were late, as on a path that reorders them; and so does
 * it when all came before anything was sent again.
 */
import type { TcpSegment } from '../wire/tcp.js';
import type { ControlBlock } from './control-block.js';
import { distance, isBefore } from './sequence.js';

export class Retransmissions {
  /** Whether the last slow-down may still turn out to have been a mistake. */
  isOpen = false;
  /** Everything from here on was, or will be, sent again for the sake of that loss. */
  start = 0;
  /** Retransmissions that nobody has reported as duplicates. */
  unproven = 0;
  #firstTimestamp = 0;
  #hasFirst = false;

  /** We slow down for a loss. */
  open(start: number): void {
    this.isOpen = true;
    this.start = start;
    this.unproven = 0;
    this.#hasFirst = false;
  }

  close(): void {
    this.isOpen = false;
  }

  /** A segment is sent again. */
  add(timestamp: number): void {
    if (!this.isOpen) return;
    this.unproven += 1;
    if (this.#hasFirst) return;
    this.#hasFirst = true;
    this.#firstTimestamp = timestamp;
  }

  /** The peer has `segments` twice. True: all that was sent again was sent in vain. */
  prove(segments: number): boolean {
    if (!this.isOpen || !this.#hasFirst) return false;
    this.unproven -= segments;
    return this.unproven <= 0;
  }

  /** Whether nothing had to be sent again, for all of it came by itself. */
  get wasNeedless(): boolean {
    return this.isOpen && !this.#hasFirst;
  }

  /** Whether an echo is of something older than all that was sent again. */
  isEarlier(echo: number): boolean {
    return this.isOpen && this.#hasFirst && isBefore(echo, this.#firstTimestamp);
  }
}

/** The peer reports that it has the bytes from `left` to `right` twice. */
export function takeDuplicate(block: ControlBlock, left: number, right: number): void {
  block.loss.onReordering();
  const { retransmissions } = block;
  if (isBefore(left, retransmissions.start)) return;
  const segments = Math.ceil(distance(left, right) / block.segmentBytes);
  if (retransmissions.prove(segments)) takeBack(block);
}

/** An acknowledgement of something new has come. */
export function judgeEcho(block: ControlBlock, segment: TcpSegment): void {
  if (!block.timestampsEnabled || !segment.hasTimestamps) return;
  if (!block.retransmissions.isEarlier(segment.timestampEcho)) return;
  block.loss.onReordering();
  takeBack(block);
}

/** Everything that was sent before the loss was noticed has arrived. */
export function endRecovery(block: ControlBlock): void {
  block.isRecovering = false;
  block.duplicateAcks = 0;
  if (!block.retransmissions.wasNeedless) return;
  block.loss.onReordering();
  takeBack(block);
}

/** What is thought to be lost may only be late, too: it is judged anew. */
function takeBack(block: ControlBlock): void {
  block.retransmissions.close();
  block.congestion.takeBack();
  block.isRecovering = false;
  block.isRetransmissionDue = false;
  block.sent.forgetLosses();
}
