/** What a client may ask of a stream of frames, checked and with the defaults filled in. */
import type { Config } from '../config.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN } from '../device/frame-batch.js';
import type { WriteOutcome } from '../device/network.js';
import { InvalidArgumentError } from '../errors.js';
import {
  FrameMode,
  type FrameSelection,
  InjectionOutcome,
  type OpenFrames,
  OverflowPolicy,
} from '../gen/xenvif/v1/frame_service.js';
import type { LocalMemory } from '../xen/local-memory.js';
import type { ChunkLimits } from './frame-chunk.js';
import type { FrameSelector } from './frame-stream.js';
import { PcapFilter } from './pcap-filter.js';

const KIB = 1024;
const QUEUE_BYTES_MIN = 64 * KIB;
const QUEUE_BYTES_MAX = 64 * KIB * KIB;
const CHUNK_BYTES_DEFAULT = 64 * KIB;
const CHUNK_BYTES_MAX = 256 * KIB;
const CHUNK_FRAMES_DEFAULT = 2048;
const CHUNK_FRAMES_MAX = 4096;
const LINGER_US_MAX = 1_000_000;
const VIFS_MAX = 1024;
const SAMPLE_MAX = 1_000_000;

/** A stream as it was granted. */
export interface OpenedFrames {
  readonly mode: FrameMode;
  readonly selector: FrameSelector;
  readonly queueBytes: number;
  readonly framesMax: number;
  readonly chunk: ChunkLimits;
  readonly lingerMs: number;
  readonly policy: OverflowPolicy;
  readonly creditBytes: number | undefined;
}

/** @throws InvalidArgumentError about the mode, the vifs and the switch named. */
export function checkVifNames(open: OpenFrames): void {
  if (open.mode === FrameMode.UNSPECIFIED) {
    const text = 'A stream is opened with mode FRAME_MODE_OBSERVE or FRAME_MODE_ATTACH.';
    throw new InvalidArgumentError('MODE_MISSING', 'open.mode', text);
  }
  const attach = open.mode === FrameMode.ATTACH;
  if (open.switch !== '') {
    if (attach && open.vifs.length === 0) return;
    const text = 'A stream is about vifs, or with ATTACH about one switch.';
    throw new InvalidArgumentError('SWITCH_AND_VIFS', 'open.switch', text);
  }
  if (open.vifs.length === 0 || (attach && open.vifs.length > 1)) {
    const text = attach ? 'ATTACH takes exactly one vif.' : 'OBSERVE takes at least one vif.';
    throw new InvalidArgumentError('VIF_MISSING', 'open.vifs', text);
  }
  between('open.vifs', open.vifs.length, 1, VIFS_MAX);
  if (new Set(open.vifs).size < open.vifs.length) {
    throw new InvalidArgumentError('VIF_REPEATED', 'open.vifs', 'A vif is named twice.');
  }
}

/** @throws InvalidArgumentError, naming the field. */
export function checkOpen(
  open: OpenFrames,
  limits: Config['limits'],
  memory: LocalMemory,
): OpenedFrames {
  const queueBytes = Number(open.limits?.queueBytes ?? 0n) || limits.frameQueueBytes;
  between('open.limits.queue_bytes', queueBytes, QUEUE_BYTES_MIN, QUEUE_BYTES_MAX);
  const bytes = open.batching?.bytes || CHUNK_BYTES_DEFAULT;
  const frames = open.batching?.frames || CHUNK_FRAMES_DEFAULT;
  const lingerUs = open.batching?.lingerUs ?? 0;
  between('open.batching.bytes', bytes, 1, CHUNK_BYTES_MAX);
  between('open.batching.frames', frames, 1, CHUNK_FRAMES_MAX);
  between('open.batching.linger_us', lingerUs, 0, LINGER_US_MAX);
  const { initialCreditBytes } = open;
  return {
    mode: open.mode,
    selector: checkSelection(open.selection, memory, 'open.selection'),
    queueBytes,
    framesMax: Number(open.limits?.frames ?? 0n),
    chunk: { bytes: Math.min(bytes, queueBytes), frames },
    // Timers of Node have a resolution of a millisecond.
    lingerMs: Math.ceil(lingerUs / 1000),
    policy: open.overflowPolicy || OverflowPolicy.DROP_OLDEST,
    creditBytes: initialCreditBytes === undefined ? undefined : Number(initialCreditBytes),
  };
}

export function checkSelection(
  selection: FrameSelection | undefined,
  memory: LocalMemory,
  field: string,
): FrameSelector {
  if (selection === undefined) return { direction: 0, snaplen: FRAME_BYTES_MAX, sampleOneIn: 1 };
  const snaplen = selection.snaplen || FRAME_BYTES_MAX;
  between(`${field}.snaplen`, snaplen, FRAME_BYTES_MIN, FRAME_BYTES_MAX);
  between(`${field}.sample_one_in`, selection.sampleOneIn, 0, SAMPLE_MAX);
  const { direction, filter, sampleOneIn } = selection;
  if (filter === '') return { direction, snaplen, sampleOneIn };
  const compiled = PcapFilter.compile(filter, memory, `${field}.filter`);
  return { direction, snaplen, sampleOneIn, filter: compiled };
}

/** @throws InvalidArgumentError FRAME_TOO_SHORT, FRAME_TOO_LONG. */
export function checkFrame(length: number, index: number): void {
  if (length >= FRAME_BYTES_MIN && length <= FRAME_BYTES_MAX) return;
  const short = length < FRAME_BYTES_MIN;
  throw new InvalidArgumentError(
    short ? 'FRAME_TOO_SHORT' : 'FRAME_TOO_LONG',
    `frames.frames[${index}]`,
    `A frame has ${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX} bytes; this one has ${length}.`,
  );
}

/** `WriteOutcome` and the wire contract number the outcomes alike. */
export function toOutcome(outcome: number): InjectionOutcome {
  return OUTCOMES[outcome as WriteOutcome];
}

const OUTCOMES: Readonly<Record<WriteOutcome, InjectionOutcome>> = {
  1: InjectionOutcome.ACCEPTED,
  2: InjectionOutcome.TOO_LONG,
  3: InjectionOutcome.QUEUE_FULL,
  4: InjectionOutcome.NOT_CONNECTED,
};

function between(field: string, value: number, min: number, max: number): void {
  if (value >= min && value <= max) return;
  throw new InvalidArgumentError(
    'OUT_OF_RANGE',
    field,
    `${field} must be within ${min} to ${max}; it is ${value}.`,
  );
}
