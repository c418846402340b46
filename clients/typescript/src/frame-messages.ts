/**
 * What comes on a stream of frames: `StreamFramesResponse` with batches decoded in place and the
 * rest turned into words.
 */
import { decodeFrameBatch } from './batch-decoder.js';
import type { FrameBatchView } from './frame-batch-view.js';
import {
  type FramesOpened,
  InjectionOutcome as InjectionOutcomes,
  LossCause as LossCauses,
  LossStage as LossStages,
  StreamFramesResponse,
} from './gen/xenvif/v1/frame_service.js';
import { VifPhase as VifPhases } from './gen/xenvif/v1/vif.js';
import type { VifPhase } from './vif.js';
import { WIRE_BYTES, WireReader } from './wire-reader.js';
import { type WordOf, wordOf } from './words.js';

/** `slow-reader`: this client did not read fast enough. `no-credit`: it gave too little credit. */
export type LossCause = WordOf<typeof LossCauses>;
export type LossStage = WordOf<typeof LossStages>;
/** `accepted`, `too-long`, `queue-full`, `not-connected`; `unspecified` is never sent. */
export type InjectionOutcome = WordOf<typeof InjectionOutcomes>;

/** Frames that passed and will never come. */
export interface Lost {
  readonly cause: LossCause;
  readonly stage: LossStage;
  /** How many frames. */
  readonly count: bigint;
  /** The sequence number of the first that is missing. */
  readonly firstSequence: bigint;
  readonly lastSequence: bigint;
}

/** One message of the daemon's. */
export type FrameMessage =
  | { readonly type: 'opened'; readonly opened: FramesOpened }
  | { readonly type: 'batch'; readonly batch: FrameBatchView }
  | { readonly type: 'lost'; readonly lost: Lost }
  | {
      readonly type: 'results';
      readonly firstSequence: bigint;
      readonly outcomes: readonly InjectionOutcome[];
    }
  | {
      readonly type: 'status';
      readonly vifIndex: number;
      readonly phase: VifPhase;
      readonly reason: string;
    };

/** `frames = 2` of StreamFramesResponse. */
const FRAMES = 2;
const ONEOF_FIELDS_MAX = 5;

/**
 * Decodes a `StreamFramesResponse`; `recycle` is where a batch's memory goes when it is released. Undefined for a message of a kind that this SDK does not know.
 * @throws XenvifClientError RESPONSE_MALFORMED; for messages without frames also the generated
 *   decoder's own errors.
 */
export function decodeFrameMessage(
  bytes: Buffer,
  recycle?: (message: Buffer) => void,
): FrameMessage | undefined {
  // In a oneof the last field wins, so the message is walked to its end; it mostly has one field.
  const reader = new WireReader(bytes);
  let last = 0;
  let start = 0;
  let end = 0;
  while (reader.pos < reader.end) {
    const tag = reader.varint32();
    const field = tag >>> 3;
    if (field >= 1 && field <= ONEOF_FIELDS_MAX && (tag & 7) === WIRE_BYTES) {
      last = field;
      end = reader.contentEnd();
      start = reader.pos;
      reader.pos = end;
    } else reader.skip(field, tag & 7);
  }
  if (last === FRAMES)
    return { type: 'batch', batch: decodeFrameBatch(bytes, start, end, recycle) };
  return controlMessage(StreamFramesResponse.decode(bytes));
}

function controlMessage({ message }: StreamFramesResponse): FrameMessage | undefined {
  switch (message?.$case) {
    case 'opened':
      return { type: 'opened', opened: message.value };
    case 'lost': {
      const { cause, stage, ...numbers } = message.value;
      const lost = { cause: wordOf(LossCauses, cause), stage: wordOf(LossStages, stage) };
      return { type: 'lost', lost: { ...lost, ...numbers } };
    }
    case 'results': {
      const outcomes = message.value.outcomes.map((outcome) => wordOf(InjectionOutcomes, outcome));
      return { type: 'results', firstSequence: message.value.firstSequence, outcomes };
    }
    case 'status': {
      const { vifIndex, phase, reason } = message.value;
      return { type: 'status', vifIndex, phase: wordOf(VifPhases, phase), reason };
    }
    default:
      return undefined;
  }
}
