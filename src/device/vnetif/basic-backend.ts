/**
 * A hub in memory: what one node writes, every other node that reads gets as a copy of its own.
 *
 * Readers are called by the write itself, one after the other, and a write is over when they are
 * (`asyncReaders: false`); or later, in a turn of the event loop of their own, and a write is over
 * when there is room for it. Only the second is for stacks whose readers write: with the first, a
 * reply is read within the write that it replies to, and beyond `NESTING_MAX` is dropped.
 */
import { setImmediate } from 'node:timers/promises';
import { formatMac } from '@xenvif/client/wire';
import { DisconnectedError } from '../../errors.js';
import { LocalMemory } from '../../xen/local-memory.js';
import { BatchCopy } from '../batch-copy.js';
import { frameTimeNs } from '../clock.js';
import type { FrameBatch } from '../frame-batch.js';
import { WriteOutcome } from '../network.js';
import type { VnetifBackend, VnetifReader } from './backend.js';
import { Backlog } from './backlog.js';

/** How deep writes may lie in one another, each with a copy of its frames. */
const NESTING_MAX = 16;
const BACKLOG_BYTES = 512 * 1024;
const BACKLOG_FRAMES = 1024;
/** For a hub with a memory of its own: the backlog, frames being written, and every nested copy. */
const MEMORY_BYTES = 8 * 1024 * 1024;

export interface BasicBackendOptions {
  /** Where frames lie. Default: a memory of the hub's own, 8 MiB. */
  readonly memory?: LocalMemory;
  /** Whether a write returns before its frames are read. Default: false. */
  readonly asyncReaders?: boolean;
  /** Lets others have a turn: awaited after a write, and before each round of async readers. */
  readonly yieldTurn?: () => Promise<void>;
  /**
   * Gets what a reader throws; other readers and the writer go on. Default: it is thrown where
   * nobody catches it, for it is nobody's but the reader's.
   */
  readonly onFault?: (error: unknown) => void;
}

interface Node {
  readonly id: number;
  readonly mac: string;
  reader: VnetifReader | undefined;
  /** The numbers of the frames that are for this node, `[since, until)`. */
  since: number;
  until: number;
  /** What readers have set in motion and not ended. */
  readonly calls: Set<Promise<unknown>>;
}

/** A write that waits for room. */
interface Writer {
  readonly node: Node;
  readonly batch: FrameBatch;
  /** The first frame that is not in the backlog yet. */
  next: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class BasicBackend implements VnetifBackend {
  readonly memory: LocalMemory;
  /** Frames that were dropped because writes were nested too deep. */
  droppedFrames = 0;
  readonly #asyncReaders: boolean;
  readonly #yieldTurn: () => Promise<void>;
  readonly #onFault: (error: unknown) => void;
  readonly #nodes = new Map<number, Node>();
  readonly #backlog: Backlog;
  /** One for each depth that writes have been nested to. */
  #copies: BatchCopy[] = [];
  #depth = 0;
  #writers: Writer[] = [];
  #flushes: { readonly until: number; readonly resolve: () => void }[] = [];
  #isPumping = false;
  #lastId = 0;

  constructor(options: BasicBackendOptions = {}) {
    this.memory = options.memory ?? new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
    this.#asyncReaders = options.asyncReaders ?? false;
    this.#yieldTurn = options.yieldTurn ?? (() => setImmediate());
    this.#onFault = options.onFault ?? throwAside;
    this.#backlog = new Backlog(this.memory, BACKLOG_BYTES, BACKLOG_FRAMES);
  }

  register(): number {
    this.#lastId += 1;
    const id = this.#lastId;
    const until = Number.POSITIVE_INFINITY;
    const calls = new Set<Promise<unknown>>();
    this.#nodes.set(id, { id, mac: macOf(id), reader: undefined, since: 0, until, calls });
    return id;
  }

  mac(node: number): string {
    return this.#find(node).mac;
  }

  setReader(node: number, reader: VnetifReader): void {
    const found = this.#nodes.get(node);
    if (found === undefined) return;
    if (found.reader === undefined) found.since = this.#backlog.pushed;
    found.reader = reader;
  }

  async write(id: number, batch: FrameBatch): Promise<void> {
    const node = this.#find(id);
    if (this.#asyncReaders) await this.#enqueueAll(node, batch);
    else await this.#readAll(node, batch);
    await this.#yieldTurn();
  }

  writeBatch(id: number, batch: FrameBatch, outcomes?: Uint8Array): number {
    const node = this.#find(id);
    if (this.#asyncReaders) {
      // Nobody overtakes a write that waits.
      const accepted = this.#writers.length > 0 ? 0 : this.#enqueue(node, batch, 0);
      outcomes?.fill(WriteOutcome.accepted, 0, accepted);
      outcomes?.fill(WriteOutcome.queueFull, accepted, batch.count);
      return accepted;
    }
    for (const other of this.#nodes.values()) {
      if (other !== node) void this.#give(other, batch, 0, batch.count);
    }
    outcomes?.fill(WriteOutcome.accepted, 0, batch.count);
    return batch.count;
  }

  async unregister(id: number): Promise<void> {
    const node = this.#nodes.get(id);
    if (node !== undefined) this.#remove(node);
  }

  async unregisterAndFlush(id: number): Promise<void> {
    const node = this.#nodes.get(id);
    if (node === undefined) return;
    const until = this.#backlog.pushed;
    node.until = until;
    if (this.#backlog.oldest < until) {
      await new Promise<void>((resolve) => this.#flushes.push({ until, resolve }));
    }
    this.#remove(node);
    while (node.calls.size > 0) await Promise.all(node.calls);
  }

  /** A node that may write: one that is being flushed may not. */
  #find(id: number): Node {
    const node = this.#nodes.get(id);
    if (node !== undefined && node.until === Number.POSITIVE_INFINITY) return node;
    throw new DisconnectedError(`There is no node ${id} on this hub.`);
  }

  #remove(node: Node): void {
    node.reader = undefined;
    this.#nodes.delete(node.id);
    this.#admitWriters();
    this.#freeWhenEmpty();
  }

  /** Has one node after another read the batch, each when the one before is done. */
  async #readAll(source: Node, batch: FrameBatch): Promise<void> {
    for (const node of [...this.#nodes.values()]) {
      if (node === source) continue;
      await this.#give(node, batch, 0, batch.count);
    }
  }

  async #enqueueAll(node: Node, batch: FrameBatch): Promise<void> {
    const next = this.#writers.length > 0 ? 0 : this.#enqueue(node, batch, 0);
    if (next === batch.count) return;
    await new Promise<void>((resolve, reject) => {
      this.#writers.push({ node, batch, next, resolve, reject });
    });
  }

  /** Puts frames from `first` on into the backlog and returns the first that did not fit. */
  #enqueue(node: Node, batch: FrameBatch, first: number): number {
    let next = first;
    while (next < batch.count && this.#backlog.push(node.id, batch, next)) next += 1;
    if (!this.#isPumping && this.#backlog.count > 0) {
      this.#isPumping = true;
      this.#pump().catch(this.#onFault);
    }
    return next;
  }

  async #pump(): Promise<void> {
    try {
      while (this.#backlog.count > 0) {
        await this.#yieldTurn();
        this.#handOn();
        this.#admitWriters();
      }
    } finally {
      this.#isPumping = false;
      this.#freeWhenEmpty();
    }
  }

  /** Hands what waits now to the readers; what they write meanwhile is for the next round. */
  #handOn(): void {
    const end = this.#backlog.pushed;
    while (this.#backlog.oldest < end && this.#backlog.count > 0) {
      const { oldest, source } = this.#backlog;
      const run = this.#backlog.shiftRun();
      for (const node of this.#nodes.values()) {
        if (node.id === source) continue;
        const first = Math.max(0, node.since - oldest);
        void this.#give(node, run, first, Math.min(run.count, node.until - oldest));
      }
      this.#endFlushes();
    }
  }

  #endFlushes(): void {
    const { oldest } = this.#backlog;
    for (const { until, resolve } of this.#flushes) if (until <= oldest) resolve();
    this.#flushes = this.#flushes.filter(({ until }) => until > oldest);
  }

  /** Lets writes that wait go on, in their order, as far as there is room. */
  #admitWriters(): void {
    for (let writer = this.#writers[0]; writer !== undefined; writer = this.#writers[0]) {
      if (!this.#nodes.has(writer.node.id)) {
        writer.reject(new DisconnectedError('The NIC was disconnected while a write waited.'));
      } else {
        writer.next = this.#enqueue(writer.node, writer.batch, writer.next);
        if (writer.next < writer.batch.count) return;
        writer.resolve();
      }
      this.#writers.shift();
    }
  }

  /**
   * Has a node read a copy of frames `[first, end)`. What it returns resolves when all that was set
   * in motion by that has come to its end.
   */
  #give(node: Node, batch: FrameBatch, first: number, end: number): Promise<unknown> | undefined {
    if (node.reader === undefined || first >= end) return undefined;
    if (this.#depth === NESTING_MAX) {
      this.droppedFrames += end - first;
      return undefined;
    }
    const depth = this.#depth;
    let calls: Promise<unknown> | undefined;
    try {
      this.#copies[depth] ??= new BatchCopy(this.memory);
      const copy = this.#copies[depth];
      this.#depth += 1;
      for (let next = first; next < end && node.reader !== undefined; ) {
        next = copy.fill(batch, next, end);
        copy.batch.timeNs = frameTimeNs();
        const call = node.reader(copy.batch);
        if (call !== undefined) calls = calls === undefined ? call : Promise.all([calls, call]);
      }
    } catch (error) {
      this.#onFault(error);
    } finally {
      this.#depth = depth;
    }
    this.#freeWhenEmpty();
    return calls === undefined ? undefined : this.#track(node, calls);
  }

  /** Keeps a promise for whoever flushes the node. */
  #track(node: Node, calls: Promise<unknown>): Promise<unknown> {
    const end = calls.catch(this.#onFault).finally(() => node.calls.delete(end));
    node.calls.add(end);
    return end;
  }

  /** A hub without nodes keeps no memory. */
  #freeWhenEmpty(): void {
    if (this.#nodes.size > 0 || this.#depth > 0) return;
    this.#backlog.clear();
    this.#endFlushes();
    for (const copy of this.#copies) copy.free();
    this.#copies = [];
  }
}

/** 02:50 and the number: locally administered, and other than Xen's, QEMU's and Linux' own. */
function macOf(id: number): string {
  const bytes = Uint8Array.of(0x02, 0x50, id >>> 24, id >>> 16, id >>> 8, id);
  return formatMac(bytes);
}

function throwAside(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
