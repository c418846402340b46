/** A stream of frames that is read at once, and frames in local memory to push into it. */
import {
  DIRECTION_FROM_GUEST,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../../src/device/frame-batch.js';
import { OverflowPolicy, StreamFramesResponse } from '../../../src/gen/xenvif/v1/frame_service.js';
import { inOnePiece } from '../../../src/service/frame-message.js';
import { FrameStream } from '../../../src/service/frame-stream.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';

export interface CapturedFrame {
  readonly hex: string;
  readonly flags: number;
  readonly sequence: number;
  readonly originalLength: number;
}

export const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** The flags of a frame from the guest that is to be cut: `type` 1 TCPv4, 2 TCPv6. */
export function gsoFlags(type: number, size: number): number {
  return (DIRECTION_FROM_GUEST | (type << GSO_TYPE_SHIFT) | (size << GSO_SIZE_SHIFT)) >>> 0;
}

export function openStream(snaplen = 65535) {
  const memory = new LocalMemory(new ArrayBuffer(16 * 1024 * 1024), 0n);
  const frames: CapturedFrame[] = [];
  const stream = new FrameStream(
    { direction: 0, snaplen, sampleOneIn: 1 },
    {
      memory,
      chunk: { bytes: 65536, frames: 2048 },
      lingerMs: 0,
      queueBytes: 8 * 1024 * 1024,
      inFlightBytes: 1024 * 1024,
      policy: OverflowPolicy.DROP_OLDEST,
      creditBytes: undefined,
      framesMax: 0,
      write: (message, done) => {
        const { message: oneof } = StreamFramesResponse.decode(inOnePiece(message));
        if (oneof?.$case !== 'frames') throw new Error(`Not frames but ${oneof?.$case}.`);
        const batch = oneof.value;
        for (const [index, frame] of batch.frames.entries()) {
          frames.push({
            hex: hex(frame),
            flags: batch.flags[index] ?? 0,
            sequence: Number(batch.firstSequence) + index,
            originalLength: batch.originalLength[index] ?? frame.length,
          });
        }
        done();
      },
      end: () => undefined,
    },
  );

  /** Frames in local memory, as a device hands them on. */
  function batchOf(list: readonly { readonly frame: Uint8Array; readonly flags: number }[]) {
    const batch = new FrameBatch(memory.bytes, 256);
    batch.timeNs = 1000n;
    for (const { frame, flags } of list) {
      const { offset } = memory.allocate(frame.length + 64);
      memory.bytes.set(frame, offset + 2);
      batch.add(offset + 2, frame.length, flags);
    }
    return batch;
  }

  const inMemory = (batch: FrameBatch, index: number) =>
    hex(batch.bytes.subarray(batch.offset(index), batch.offset(index) + batch.length(index)));
  return { memory, stream, frames, batchOf, inMemory };
}
