/**
 * The easy face of a NIC over its batch face: one frame in, one frame out. It copies and allocates
 * for each frame, which is what its callers ask for.
 */
import { InvalidArgumentError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, FrameBatch } from './frame-batch.js';

/** A frame in local memory, as a batch of one. */
export interface StagedFrame {
  readonly batch: FrameBatch;
  free(): void;
}

/**
 * Puts the parts together in local memory as one frame.
 * @throws InvalidArgumentError FRAME_TOO_SHORT, FRAME_TOO_LONG; GrantError when memory is short.
 */
export function stageFrame(memory: LocalMemory, parts: readonly Uint8Array[]): StagedFrame {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) {
    const code = length < FRAME_BYTES_MIN ? 'FRAME_TOO_SHORT' : 'FRAME_TOO_LONG';
    throw new InvalidArgumentError(code, 'frame', `A frame cannot have ${length} bytes.`);
  }
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

/** Calls `onFrame` with a copy of each frame of a batch. */
export function copyFrames(batch: FrameBatch, onFrame: (frame: Uint8Array) => void): void {
  for (let index = 0; index < batch.count; index += 1) {
    const offset = batch.offset(index);
    onFrame(batch.bytes.slice(offset, offset + batch.length(index)));
  }
}
