/**
 * Grants as one process of an emulated domain uses them: what gntdev and gntalloc give on Linux.
 * Strict: a stray unmap, a use after the end or a copy to memory that is not ours throws
 * `MisuseError`, because on real Xen it would be silent corruption or a dead process.
 */
import { GrantError, MisuseError } from '../../errors.js';
import {
  type CopyBatch,
  DESTINATION_IS_GRANT,
  GNTST_OKAY,
  SOURCE_IS_GRANT,
} from '../copy-batch.js';
import type { LocalMemory } from '../local-memory.js';
import type { Page } from '../page.js';
import {
  type EndNotice,
  type Grants,
  type MappedPage,
  PAGE_SIZE,
  type SharedPages,
} from '../xen.js';
import type { CopyBounds } from './copy-kernel.js';
import type { Faults } from './faults.js';
import {
  GNTST_BAD_DOMAIN,
  GNTST_GENERAL_ERROR,
  type GrantEntry,
  type GrantTable,
} from './grant-table.js';
import type { MachineMemory } from './machine-memory.js';

/** What grants need of the hypervisor. */
export interface GrantMachine {
  readonly memory: MachineMemory;
  readonly faults: Faults;
  /** The grant table of a domain that lives. */
  grantTable(domid: number): GrantTable | undefined;
}

/**
 * `closed` ended orderly, and whatever it does afterwards is a bug. `killed` was ended from outside
 * in the midst of its work: its code still runs, for emulated processes share one real process, so
 * what it does afterwards is no bug but must have no effect.
 */
export type ProcessState = 'running' | 'closed' | 'killed';

/** The same bytes as `CopyBatch.segments`, in the widths that the fields have. */
interface SegmentFields {
  readonly i16: Int16Array;
  readonly u32: Uint32Array;
}

const segmentFields = new WeakMap<CopyBatch, SegmentFields>();

function fieldsOf(batch: CopyBatch): SegmentFields {
  const known = segmentFields.get(batch);
  if (known !== undefined) return known;
  const { buffer, byteOffset, byteLength } = batch.segments;
  const fields = {
    i16: new Int16Array(buffer, byteOffset, byteLength / 2),
    u32: new Uint32Array(buffer, byteOffset, byteLength / 4),
  };
  segmentFields.set(batch, fields);
  return fields;
}

export class EmulatedGrants implements Grants {
  readonly #machine: GrantMachine;
  readonly #own: GrantTable;
  readonly #memory: LocalMemory;
  readonly #mappings = new Set<EmulatedMapping>();
  readonly #shares = new Set<EmulatedShare>();
  /** Of the run of segments at hand. */
  readonly #bounds: CopyBounds = { domid: 0, from: 0, own: 0, refs: 0, table: 0, until: 0 };
  #state: ProcessState = 'running';

  constructor(machine: GrantMachine, own: GrantTable, memory: LocalMemory) {
    this.#machine = machine;
    this.#own = own;
    this.#memory = memory;
  }

  map(domid: number, ref: number, access: 'read' | 'write', notice?: EndNotice): MappedPage {
    this.#checkRunning('map');
    if (notice !== undefined && access === 'read') {
      throw new MisuseError('A mapping with a notice must be writable.');
    }
    const table = this.#machine.grantTable(domid);
    if (table === undefined) {
      throw new GrantError(`There is no domain ${domid}.`, { status: String(GNTST_BAD_DOMAIN) });
    }
    if (this.#machine.faults.strikes('grantMap')) {
      throw new GrantError(`Mapping grant ${ref} of domain ${domid} failed by injection.`, {
        status: String(GNTST_GENERAL_ERROR),
      });
    }
    const entry = table.pin(ref, this.#own.domid, access === 'write');
    const mapping = new EmulatedMapping(table, entry, access, notice, this.#mappings);
    this.#mappings.add(mapping);
    return mapping;
  }

  copy(batch: CopyBatch): void {
    if (this.#state !== 'running') this.#checkRunning('copy');
    const fields = fieldsOf(batch);
    const { faults } = this.#machine;
    // Where something is to happen in the midst of it, each copy is made by itself.
    const isUndisturbed = faults.duringCopy === undefined && !faults.isActive;
    const { count } = batch;
    let index = 0;
    while (index < count) {
      if (isUndisturbed) index = this.#copyInOrder(batch, fields, index, count);
      if (index === count) return;
      this.#copyOne(fields, index);
      index += 1;
    }
  }

  /**
   * Carries out segments from `first` on that are alike and in order; returns the first that is not,
   * or that is of another domain, or of other memory of ours.
   */
  #copyInOrder(batch: CopyBatch, { i16, u32 }: SegmentFields, first: number, end: number): number {
    const word = first * 6;
    const toGrant = i16[first * 12 + 9] === DESTINATION_IS_GRANT;
    const domid = (u32[word + (toGrant ? 3 : 1)] as number) >>> 16;
    const local = u32[word + (toGrant ? 0 : 2)] as number;
    const table = this.#machine.grantTable(domid);
    if (table === undefined) return first;
    const bounds = this.#bounds;
    bounds.domid = domid;
    bounds.table = table.address;
    bounds.refs = table.refs;
    bounds.own = this.#own.domid;
    bounds.from = this.#memory.allocatedFrom(local);
    bounds.until = this.#memory.allocatedUntil(local);
    const next = this.#machine.memory.copies.run(u32, first, end, bounds);
    batch.succeed(first, next);
    return next;
  }

  /** Judges a segment, carries it out where it may be, and writes its status. */
  #copyOne({ i16, u32 }: SegmentFields, index: number): void {
    const { faults } = this.#machine;
    const { bytes } = this.#machine.memory;
    const word = index * 6;
    const lengthAndFlags = u32[word + 4] as number;
    const flags = lengthAndFlags >>> 16;
    const length = lengthAndFlags & 0xffff;
    const toGrant = flags === DESTINATION_IS_GRANT;
    if (!toGrant && flags !== SOURCE_IS_GRANT) {
      throw new MisuseError(`Segment ${index} has flags ${flags}; one side must be a grant.`);
    }
    const grantWord = toGrant ? word + 2 : word;
    const localWord = toGrant ? word : word + 2;
    const offsetAndDomid = u32[grantWord + 1] as number;
    const offset = offsetAndDomid & 0xffff;
    const local = u32[localWord] as number;
    if (u32[localWord + 1] !== 0 || local + length > this.#memory.allocatedUntil(local)) {
      throw new MisuseError(`Segment ${index}: ${length} bytes at ${local} are not ours.`);
    }
    let status = GNTST_OKAY;
    // Linux' gntdev asks Xen nothing for a segment without bytes, so the grant is not checked.
    if (length > 0) {
      if (offset + length > PAGE_SIZE) {
        throw new MisuseError(`Segment ${index}: ${length} bytes at ${offset} leave the page.`);
      }
      faults.duringCopy?.(index);
      const table = this.#machine.grantTable(offsetAndDomid >>> 16);
      const page =
        table === undefined
          ? GNTST_BAD_DOMAIN
          : table.resolve(u32[grantWord] as number, this.#own.domid, toGrant);
      if (page < 0) status = page;
      else if (faults.isActive && faults.strikes('grantCopy')) status = GNTST_GENERAL_ERROR;
      else if (toGrant) bytes.copyWithin(page + offset, local, local + length);
      else bytes.copyWithin(local, page + offset, page + offset + length);
    }
    i16[index * 12 + 10] = status;
  }

  share(domid: number, count: number, access: 'read' | 'write', notice?: EndNotice): SharedPages {
    this.#checkRunning('share');
    if (notice !== undefined && count !== 1) {
      throw new MisuseError('A share with a notice is of one page.');
    }
    if (this.#machine.faults.strikes('share')) {
      throw new GrantError(`Sharing ${count} pages with domain ${domid} failed by injection.`);
    }
    const entries: GrantEntry[] = [];
    try {
      for (let index = 0; index < count; index++) {
        const frame = this.#machine.memory.allocateFrame();
        try {
          entries.push(this.#own.grant(frame, domid, access));
        } catch (error) {
          frame.release();
          throw error;
        }
      }
    } catch (error) {
      for (const entry of entries) endGrant(this.#own, entry);
      throw error;
    }
    const share = new EmulatedShare(this.#own, entries, notice, this.#shares);
    this.#shares.add(share);
    return share;
  }

  /** What was not given back, for people to read. */
  leftovers(): string[] {
    const maps = [...this.#mappings].map((mapping) => `maps ${mapping.description}`);
    return [...maps, ...[...this.#shares].map((share) => `shares ${share.description}`)];
  }

  /**
   * Ends everything the way the kernel does when a process is gone; `kernelLives` is false where the
   * whole domain is gone, so that no notice is given.
   */
  end(state: 'closed' | 'killed', kernelLives: boolean): void {
    this.#state = state;
    for (const mapping of [...this.#mappings]) mapping.end(state, kernelLives);
    for (const share of [...this.#shares]) share.end(state, kernelLives);
  }

  #checkRunning(operation: string): void {
    if (this.#state === 'closed') throw new MisuseError(`Grants: ${operation} after close.`);
    if (this.#state === 'killed') throw new GrantError(`Grants: ${operation} after death.`);
  }
}

/** What becomes of the view of a page whose process ended; see `ProcessState`. */
function endView(page: Page, state: 'closed' | 'killed'): void {
  page.invalidate(state === 'killed' ? new ArrayBuffer(PAGE_SIZE) : undefined);
}

/** Clears the byte and sends the event, while the view and the channel are still there. */
function giveNotice(page: Page | undefined, notice: EndNotice | undefined): void {
  if (page === undefined || notice === undefined) return;
  page.bytes[notice.byteOffset] = 0;
  notice.channel.notify();
}

class EmulatedMapping implements MappedPage {
  readonly page: Page;
  readonly #table: GrantTable;
  readonly #entry: GrantEntry;
  readonly #notice: EndNotice | undefined;
  readonly #siblings: Set<EmulatedMapping>;
  #state: ProcessState = 'running';

  constructor(
    table: GrantTable,
    entry: GrantEntry,
    access: 'read' | 'write',
    notice: EndNotice | undefined,
    siblings: Set<EmulatedMapping>,
  ) {
    this.page = entry.frame.view(access);
    this.#table = table;
    this.#entry = entry;
    this.#notice = notice;
    this.#siblings = siblings;
  }

  get description(): string {
    return `grant ${this.#entry.ref} of domain ${this.#table.domid}`;
  }

  unmap(): void {
    if (this.#state === 'killed') return;
    if (this.#state === 'closed') {
      throw new MisuseError(`The mapping of ${this.description} is not there any more.`);
    }
    this.end('closed', true);
  }

  end(state: 'closed' | 'killed', kernelLives: boolean): void {
    this.#state = state;
    this.#siblings.delete(this);
    if (kernelLives) giveNotice(this.page, this.#notice);
    endView(this.page, state);
    this.#table.unpin(this.#entry);
  }
}

class EmulatedShare implements SharedPages {
  readonly refs: readonly number[];
  readonly pages: readonly Page[];
  readonly #table: GrantTable;
  readonly #entries: readonly GrantEntry[];
  readonly #notice: EndNotice | undefined;
  readonly #siblings: Set<EmulatedShare>;
  #state: ProcessState = 'running';

  constructor(
    table: GrantTable,
    entries: readonly GrantEntry[],
    notice: EndNotice | undefined,
    siblings: Set<EmulatedShare>,
  ) {
    this.#table = table;
    this.#entries = entries;
    this.#notice = notice;
    this.#siblings = siblings;
    this.refs = entries.map((entry) => entry.ref);
    this.pages = entries.map((entry) => entry.frame.view('write'));
  }

  get description(): string {
    return `grants ${this.refs.join(', ')} with domain ${this.#entries[0]?.domid}`;
  }

  inUse(index: number): boolean {
    const entry = this.#entries[index];
    if (entry === undefined) throw new MisuseError(`There is no shared page ${index}.`);
    return entry.pins > 0;
  }

  unshare(): void {
    if (this.#isOver()) return;
    const mapped = this.#entries.find((entry) => entry.pins > 0);
    if (mapped !== undefined) {
      throw new GrantError(`Domain ${mapped.domid} still maps grant ${mapped.ref}.`);
    }
    this.end('closed', true);
  }

  release(): void {
    if (!this.#isOver()) this.end('closed', true);
  }

  /** As gntalloc: ends what nobody maps at once, and the rest with its last mapping. */
  end(state: 'closed' | 'killed', kernelLives: boolean): void {
    this.#state = state;
    this.#siblings.delete(this);
    if (kernelLives) giveNotice(this.pages[0], this.#notice);
    for (const page of this.pages) endView(page, state);
    for (const entry of this.#entries) {
      if (entry.pins === 0) endGrant(this.#table, entry);
      else entry.deferred = true;
    }
  }

  /** Whether the process was killed, so that nothing has an effect any more. */
  #isOver(): boolean {
    if (this.#state === 'closed') {
      throw new MisuseError(`The share of ${this.description} is not there any more.`);
    }
    return this.#state === 'killed';
  }
}

/** Ends a grant together with its owner's hold on the page. */
function endGrant(table: GrantTable, entry: GrantEntry): void {
  table.end(entry);
  entry.frame.release();
}
