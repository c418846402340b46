/**
 * What waits for one client of FrameService: the one place where frames, losses and backpressure
 * meet. Frames go into chunks; a chunk is sent when it is full, or when the work at hand is done
 * and the client keeps up. What a client does not take is bounded in bytes, and every frame that
 * goes missing is told with its number.
 *
 *   frames -> open chunk -> queue of sealed chunks and losses -> in flight in gRPC -> client
 *
 * A run that would fill a chunk by itself is not copied into one: it is held where it lies.
 */
import { CHECKSUM_BLANK, type FrameBatch } from '../device/frame-batch.js';
import { GrantError, ResourceExhaustedError } from '../errors.js';
import {
  LossCause,
  LossStage,
  OverflowPolicy,
  type StreamFramesResponse,
} from '../gen/xenvif/v1/frame_service.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { addCompleted, completeRun } from './blank-checksum.js';
import { type ChunkLimits, FrameChunk } from './frame-chunk.js';
import type { FrameMessage } from './frame-message.js';
import { HeldRun } from './held-run.js';

/** Which frames the client wants. */
export interface FrameSelector {
  /** 0: both directions. Otherwise the only one. */
  readonly direction: number;
  readonly snaplen: number;
  readonly sampleOneIn: number;
  /** The stream's from here on: it frees the filter when it is done with it. */
  readonly filter?: FrameFilter;
}

/** Looks at the frame of `length` bytes at `offset` of local memory. */
export interface FrameFilter {
  matches(offset: number, length: number): boolean;
  free(): void;
}

export interface FrameStreamOptions {
  readonly memory: LocalMemory;
  readonly chunk: ChunkLimits;
  readonly lingerMs: number;
  readonly queueBytes: number;
  readonly inFlightBytes: number;
  readonly policy: OverflowPolicy;
  /** Bytes the client lets us send; undefined when it gives no credit. */
  readonly creditBytes: number | undefined;
  /** The stream ends after so many frames; 0: never. */
  readonly framesMax: number;
  readonly write: (message: FrameMessage, done: () => void) => void;
  /** The stream is over: an error, or all that was asked for has been sent. */
  readonly end: (error?: Error) => void;
}

interface Loss {
  first: number;
  last: number;
  cause: LossCause;
}

type Waiting =
  | { readonly kind: 'chunk'; readonly chunk: FrameChunk | HeldRun }
  | { readonly kind: 'loss'; readonly loss: Loss }
  | { readonly kind: 'message'; readonly message: StreamFramesResponse }
  | { readonly kind: 'end' };

const FRAME_BYTES_MAX = 65535;
/** A run with fewer bytes than this is no message by itself, nor the beginning of one. */
const HELD_BYTES_MIN = 8 * 1024;
/** How long frames that keep coming may hold back what is there, and how long none is sent in a calm. */
const BURST_MS = 1;

export class FrameStream {
  #selector: FrameSelector;
  readonly #options: FrameStreamOptions;
  readonly #waiting: Waiting[] = [];
  readonly #spare: FrameChunk[] = [];
  readonly #spareRuns: HeldRun[] = [];
  readonly #chunksMax: number;
  #chunks = 0;
  #open: FrameChunk | HeldRun | undefined;
  #waitingBytes = 0;
  #inFlightBytes = 0;
  #creditBytes: number | undefined;
  /** The number of the last frame that was selected. */
  #sequence = 0;
  #sampled = 0;
  #openSinceMs = 0;
  #sentAtMs = 0;
  #flushTimer: NodeJS.Immediate | NodeJS.Timeout | undefined;
  /** The open chunk has waited long enough for company. */
  #due = false;
  #ended = false;
  #closed = false;

  constructor(selector: FrameSelector, options: FrameStreamOptions) {
    this.#selector = selector;
    this.#options = options;
    this.#creditBytes = options.creditBytes;
    // Full chunks are as many as the queue's bytes allow; the others end at a loss or a message.
    this.#chunksMax = Math.ceil(options.queueBytes / options.chunk.bytes) + 8;
  }

  /** Bytes of frames that wait here, beside those that gRPC has. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** Changes what the stream takes from now on. */
  select(selector: FrameSelector): void {
    this.#selector.filter?.free();
    this.#selector = selector;
  }

  /** Takes what the selector wants of frames `first` to `end` of a batch of vif number `vifIndex`. */
  push(batch: FrameBatch, vifIndex: number, first = 0, end = batch.count): void {
    if (this.#ended) return;
    if (batch.isRun && this.#pushRun(batch, vifIndex, first, end)) return;
    const { direction, filter, snaplen, sampleOneIn } = this.#selector;
    for (let index = first; index < end; index += 1) {
      const flags = batch.flag(index);
      if (direction !== 0 && (flags & 0b11) !== direction) continue;
      if (filter !== undefined && !filter.matches(batch.offset(index), batch.length(index))) {
        continue;
      }
      if (sampleOneIn > 1) {
        this.#sampled = (this.#sampled + 1) % sampleOneIn;
        if (this.#sampled !== 1) continue;
      }
      const length = batch.length(index);
      this.#append(batch, index, Math.min(length, snaplen), vifIndex);
      if (this.#sequence === this.#options.framesMax) {
        this.#finish();
        return;
      }
      if (this.#ended) return;
    }
    this.#scheduleFlush();
  }

  /**
   * Takes a whole run with a copy for each chunk that it goes to. False, and nothing is done, where
   * the frames have to be looked at one by one.
   */
  #pushRun(batch: FrameBatch, vifIndex: number, first: number, end: number): boolean {
    const { direction, filter, snaplen, sampleOneIn } = this.#selector;
    const { framesMax } = this.#options;
    if (filter !== undefined || sampleOneIn > 1 || snaplen < FRAME_BYTES_MAX) return false;
    if (framesMax > 0 && this.#sequence + end - first >= framesMax) return false;
    if (direction !== 0 && (batch.flag(first) & 0b11) !== direction) return true;
    if (this.#waitingBytes + batch.totalBytes > this.#options.queueBytes) {
      // Of a queue that is not much longer than a run, every frame's place is worth a look.
      if (batch.totalBytes * 4 > this.#options.queueBytes) return false;
      if (!this.#makeRoom(batch.totalBytes)) {
        this.#lose(end - first);
        return true;
      }
    }
    if ((batch.flag(first) & CHECKSUM_BLANK) !== 0 && !completeRun(batch)) return false;
    if (first === 0 && end === batch.count && this.#holdRun(batch, vifIndex)) return true;
    const flags = batch.flag(first);
    for (let next = first; next < end; ) {
      const open = this.#chunkFor(batch.length(next), batch.timeNs);
      if (open === undefined) {
        this.#lose(end - next);
        break;
      }
      const before = open.frameBytes;
      const taken = open.addRun(batch, next, end, vifIndex, flags, this.#sequence + 1) - next;
      this.#sequence += taken;
      this.#waitingBytes += open.frameBytes - before;
      next += taken;
    }
    this.#scheduleFlush();
    return true;
  }

  /** Takes a whole run as it lies in storage. False where it cannot be held, or is better copied. */
  #holdRun(batch: FrameBatch, vifIndex: number): boolean {
    const open = this.#open;
    const canBegin = this.#canBegin(batch);
    const canFollow = open instanceof HeldRun && open.hasRoomFor(batch);
    if (!(canBegin || canFollow) || !batch.settle()) return false;
    if (canFollow && open.isFollowedBy(batch)) {
      open.append(batch, vifIndex);
    } else {
      if (!canBegin) return false;
      this.#sealOpen();
      this.#pump();
      const run = this.#spareRuns.pop() ?? new HeldRun(batch.bytes, this.#options.chunk);
      run.begin(batch, vifIndex, this.#sequence + 1);
      this.#open = run;
    }
    this.#sequence += batch.count;
    this.#waitingBytes += batch.totalBytes;
    this.#scheduleFlush();
    return true;
  }

  /** Whether a message can begin with a run: short ones are copied to where others follow. */
  #canBegin({ count, totalBytes }: FrameBatch): boolean {
    const { bytes, frames } = this.#options.chunk;
    return totalBytes >= HELD_BYTES_MIN && totalBytes <= bytes && count <= frames;
  }

  /** The chunk that a frame of `length` bytes goes to; undefined when there is no memory for one. */
  #chunkFor(length: number, timeNs: bigint): FrameChunk | undefined {
    const open = this.#open;
    if (open instanceof FrameChunk && open.fits(length, timeNs)) return open;
    if (open !== undefined) {
      this.#sealOpen();
      this.#pump();
    }
    let chunk = this.#takeChunk();
    // Chunks that are not full can be all that there are before their bytes are.
    if (chunk === undefined && this.#dropsOldest && this.#dropOldest()) chunk = this.#takeChunk();
    this.#open = chunk;
    return chunk;
  }

  /** Queues a message that is not frames, behind the frames that came before it. */
  send(message: StreamFramesResponse): void {
    if (this.#ended) return;
    this.#sealOpen();
    this.#waiting.push({ kind: 'message', message });
    this.#pump();
  }

  addCredit(bytes: number): void {
    if (this.#creditBytes === undefined) return;
    this.#creditBytes = Math.min(this.#creditBytes + bytes, Number.MAX_SAFE_INTEGER);
    this.#pump();
  }

  /** Sends what there is without waiting for more; what the client does not take now is lost. */
  flush(): void {
    this.#sealOpen();
    this.#pump();
  }

  /** Gives all memory back, except what gRPC still reads: that follows when it is done. */
  close(): void {
    if (this.#closed) return;
    this.#ended = true;
    this.#closed = true;
    this.#selector.filter?.free();
    this.#cancelFlush();
    for (const waiting of this.#waiting) {
      if (waiting.kind === 'chunk') this.#giveBack(waiting.chunk);
    }
    this.#waiting.length = 0;
    if (this.#open !== undefined) this.#giveBack(this.#open);
    this.#open = undefined;
    for (const chunk of this.#spare) chunk.region.free();
    this.#spare.length = 0;
  }

  #append(batch: FrameBatch, index: number, length: number, vif: number): void {
    if (this.#waitingBytes + length > this.#options.queueBytes && !this.#makeRoom(length)) {
      this.#lose(1);
      return;
    }
    const open = this.#chunkFor(length, batch.timeNs);
    if (open === undefined) {
      this.#lose(1);
      return;
    }
    this.#sequence += 1;
    if ((batch.flag(index) & CHECKSUM_BLANK) === 0) {
      open.add(batch, index, length, vif, batch.flag(index), this.#sequence);
    } else {
      addCompleted(open, batch, index, length, vif, this.#sequence);
    }
    this.#waitingBytes += length;
  }

  get #dropsOldest(): boolean {
    return this.#options.policy === OverflowPolicy.DROP_OLDEST;
  }

  /** The queue is full: makes room as the policy says. False: what is new is what has to go. */
  #makeRoom(length: number): boolean {
    this.#pump();
    while (this.#waitingBytes + length > this.#options.queueBytes) {
      if (this.#options.policy === OverflowPolicy.END) {
        const text = `Over ${this.#options.queueBytes} bytes of frames waited for the client.`;
        this.#fail(new ResourceExhaustedError('SUBSCRIBER_TOO_SLOW', text));
        return false;
      }
      if (!this.#dropsOldest) return false;
      if (this.#dropOldest()) continue;
      if (this.#open === undefined || this.#open.count === 0) return false;
      this.#sealOpen();
    }
    return true;
  }

  /** Turns the oldest chunk that waits into a loss in its place. */
  #dropOldest(): boolean {
    const index = this.#waiting.findIndex((waiting) => waiting.kind === 'chunk');
    const oldest = this.#waiting[index];
    if (oldest?.kind !== 'chunk') return false;
    const { chunk } = oldest;
    const before = this.#waiting[index - 1];
    if (before?.kind === 'loss' && before.loss.last + 1 === chunk.firstSequence) {
      before.loss.last = chunk.lastSequence;
      this.#waiting.splice(index, 1);
    } else {
      const loss = { first: chunk.firstSequence, last: chunk.lastSequence, cause: this.#cause() };
      this.#waiting.splice(index, 1, { kind: 'loss', loss });
    }
    this.#waitingBytes -= chunk.frameBytes;
    this.#giveBack(chunk);
    return true;
  }

  /** Counts the next `count` frames, and has them told as lost. */
  #lose(count: number): void {
    if (this.#ended) return;
    this.#sealOpen();
    const first = this.#sequence + 1;
    this.#sequence += count;
    const before = this.#waiting.at(-1);
    if (before?.kind === 'loss' && before.loss.last + 1 === first) {
      before.loss.last = this.#sequence;
    } else {
      const loss = { first, last: this.#sequence, cause: this.#cause() };
      this.#waiting.push({ kind: 'loss', loss });
    }
  }

  #cause(): LossCause {
    const noCredit = this.#creditBytes !== undefined && this.#creditBytes < FRAME_BYTES_MAX;
    return noCredit ? LossCause.NO_CREDIT : LossCause.SLOW_READER;
  }

  #takeChunk(): FrameChunk | undefined {
    const spare = this.#spare.pop();
    if (spare !== undefined) return spare;
    if (this.#chunks >= this.#chunksMax) return undefined;
    const { chunk, memory } = this.#options;
    try {
      const made = new FrameChunk(memory, chunk, FRAME_BYTES_MAX);
      this.#chunks += 1;
      return made;
    } catch (error) {
      // Many slow clients can take all memory there is. Each then makes do with what it has, and a
      // device that brings frames never hears of it.
      if (error instanceof GrantError) return undefined;
      throw error;
    }
  }

  #giveBack(chunk: FrameChunk | HeldRun): void {
    if (chunk instanceof HeldRun) {
      chunk.release();
      this.#spareRuns.push(chunk);
      return;
    }
    if (this.#closed) {
      chunk.region.free();
      return;
    }
    chunk.clear();
    this.#spare.push(chunk);
  }

  #sealOpen(): void {
    const open = this.#open;
    if (open === undefined || open.count === 0) return;
    this.#open = undefined;
    this.#due = false;
    this.#waiting.push({ kind: 'chunk', chunk: open });
  }

  #scheduleFlush(): void {
    if (this.#open === undefined || this.#flushTimer !== undefined) return;
    this.#openSinceMs = performance.now();
    const { lingerMs } = this.#options;
    if (lingerMs > 0) this.#flushTimer = setTimeout(() => this.#flushOpen(), lingerMs);
    // In a calm nobody knows of more to come: what there is goes at once, and company waits for it.
    else if (this.#openSinceMs - this.#sentAtMs > BURST_MS) this.#flushOpen();
    else this.#flushWhenCalm();
  }

  /**
   * Sends the open chunk at the first turn of the event loop that brings no more frames: while they
   * keep coming, fuller messages cost less for everybody. A burst is waited out for a millisecond.
   */
  #flushWhenCalm(): void {
    const sequence = this.#sequence;
    this.#flushTimer = setImmediate(() => {
      const calm = sequence === this.#sequence;
      if (calm || performance.now() - this.#openSinceMs > BURST_MS) this.#flushOpen();
      else this.#flushWhenCalm();
    });
  }

  #flushOpen(): void {
    this.#flushTimer = undefined;
    // A client that does not keep up gets its frames in full chunks: until gRPC takes the open
    // one, it goes on to be filled.
    this.#due = true;
    this.#pump();
  }

  #cancelFlush(): void {
    if (this.#flushTimer === undefined) return;
    clearImmediate(this.#flushTimer as NodeJS.Immediate);
    clearTimeout(this.#flushTimer as NodeJS.Timeout);
    this.#flushTimer = undefined;
  }

  #canSend(): boolean {
    return this.#inFlightBytes < this.#options.inFlightBytes;
  }

  #pump(): void {
    while (!this.#closed && this.#canSend()) {
      const next = this.#waiting[0];
      if (next === undefined) {
        if (!this.#due || this.#open === undefined || this.#open.count === 0) return;
        this.#sealOpen();
        continue;
      }
      if (next.kind === 'chunk') {
        if (this.#creditBytes !== undefined && !this.#spendCredit(next.chunk)) return;
        this.#waiting.shift();
        this.#sendChunk(next.chunk);
      } else {
        if (next.kind === 'loss' && !this.#canPayNext()) return;
        this.#waiting.shift();
        if (next.kind === 'end') this.#options.end();
        else this.#write(next.kind === 'loss' ? lossMessage(next.loss) : next.message, 256);
      }
    }
  }

  /**
   * Whether there is credit for what comes behind the loss in front. Where there is none the loss waits
   * with it, and grows: of a client that takes nothing, every chunk becomes one.
   */
  #canPayNext(): boolean {
    const next = this.#waiting[1];
    if (this.#creditBytes === undefined || next?.kind !== 'chunk') return true;
    return next.chunk.firstLength <= this.#creditBytes;
  }

  /** Takes the chunk's bytes off the credit; false when there is not enough of it yet. */
  #spendCredit(chunk: FrameChunk | HeldRun): boolean {
    const credit = this.#creditBytes ?? 0;
    if (credit < chunk.frameBytes) {
      this.#sendPart(chunk, credit);
      return false;
    }
    this.#creditBytes = credit - chunk.frameBytes;
    return true;
  }

  /**
   * Sends as many frames of the oldest chunk as the credit allows, for a client may give less than
   * a chunk at a time and must still get its frames. This is the slow way, through ts-proto.
   */
  #sendPart(chunk: FrameChunk | HeldRun, credit: number): void {
    const part = chunk.takeFront(credit);
    if (part === undefined) return;
    const bytes = part.frames.reduce((sum, frame) => sum + frame.length, 0);
    this.#creditBytes = credit - bytes;
    this.#waitingBytes -= bytes;
    this.#write({ message: { $case: 'frames', value: part } }, bytes);
  }

  #sendChunk(chunk: FrameChunk | HeldRun): void {
    const message = chunk.seal();
    const bytes = chunk.frameBytes;
    this.#waitingBytes -= bytes;
    this.#inFlightBytes += message.length;
    this.#sentAtMs = performance.now();
    this.#options.write(message, () => {
      this.#inFlightBytes -= message.length;
      this.#giveBack(chunk);
      this.#pump();
    });
  }

  #write(message: StreamFramesResponse, bytes: number): void {
    this.#inFlightBytes += bytes;
    this.#options.write(message, () => {
      this.#inFlightBytes -= bytes;
      this.#pump();
    });
  }

  /** All that was asked for is here: sends it to the end, and then ends. */
  #finish(): void {
    this.#ended = true;
    this.#cancelFlush();
    this.#sealOpen();
    this.#waiting.push({ kind: 'end' });
    this.#pump();
  }

  #fail(error: Error): void {
    this.#ended = true;
    this.#options.end(error);
  }
}

function lossMessage({ first, last, cause }: Loss): StreamFramesResponse {
  return {
    message: {
      $case: 'lost',
      value: {
        cause,
        stage: LossStage.SUBSCRIBER_QUEUE,
        count: BigInt(last - first + 1),
        firstSequence: BigInt(first),
        lastSequence: BigInt(last),
      },
    },
  };
}
