/**
 * Single frames on their way to a NIC that takes batches. What is here copies and allocates for
 * each frame, which is what callers of the easy forms ask for.
 */
import { InvalidArgumentError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, FrameBatch } from './frame-batch.js';
import { type FillFrame, type Network, WriteOutcome } from './network.js';

/** A frame in local memory, as a batch of one. */
export interface StagedFrame {
  readonly batch: FrameBatch;
  free(): void;
}

/** @throws InvalidArgumentError FRAME_TOO_SHORT, FRAME_TOO_LONG (than `bytesMax`). */
export function checkFrameLength(length: number, bytesMax = FRAME_BYTES_MAX): void {
  if (Number.isInteger(length) && length >= FRAME_BYTES_MIN && length <= bytesMax) return;
  const code = length > bytesMax ? 'FRAME_TOO_LONG' : 'FRAME_TOO_SHORT';
  const text = `A frame here has ${FRAME_BYTES_MIN} to ${bytesMax} bytes, not ${length}.`;
  throw new InvalidArgumentError(code, 'frame', text);
}

/** The error for a frame that its NIC can send at no time. */
export function frameTooLong(): InvalidArgumentError {
  return new InvalidArgumentError('FRAME_TOO_LONG', 'frame', 'The peer takes no such frame.');
}

/** The parts in one piece. */
export function joinParts(parts: readonly Uint8Array[]): Uint8Array {
  const frame = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    frame.set(part, offset);
    offset += part.length;
  }
  return frame;
}

/**
 * What `fill` makes of a zeroed buffer of exactly `size` bytes.
 * @throws InvalidArgumentError FRAME_TOO_SHORT, FRAME_TOO_LONG for `size`, and for what `fill`
 *   returns when that is no length in the buffer.
 */
export function fillFrame(size: number, fill: FillFrame | undefined): Uint8Array {
  checkFrameLength(size);
  const buffer = new Uint8Array(size);
  const length = fill === undefined ? size : fill(buffer);
  checkFrameLength(length, size);
  return buffer.subarray(0, length);
}

/**
 * Puts the parts together in local memory as one frame.
 * @throws InvalidArgumentError FRAME_TOO_SHORT, FRAME_TOO_LONG; GrantError when memory is short.
 */
export function stageFrame(memory: LocalMemory, parts: readonly Uint8Array[]): StagedFrame {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  checkFrameLength(length);
  const region = memory.allocate(length);
  let offset = region.offset;
  for (const part of parts) {
    memory.bytes.set(part, offset);
    offset += part.length;
  }
  const batch = new FrameBatch(memory.bytes, 1);
  batch.add(region.offset, length, 0);
  return { batch, free: () => region.free() };
}

/**
 * Sends the parts as a batch of one; a frame for which there is no room is dropped, as on a wire.
 * @throws as `stageFrame`, and InvalidArgumentError for a frame that `network` can never send.
 */
export function writeStaged(
  network: Pick<Network, 'writeBatch'>,
  memory: LocalMemory,
  parts: readonly Uint8Array[],
): void {
  const staged = stageFrame(memory, parts);
  const outcomes = new Uint8Array(1);
  try {
    network.writeBatch(staged.batch, outcomes);
  } finally {
    staged.free();
  }
  if (outcomes[0] === WriteOutcome.tooLong) throw frameTooLong();
}
