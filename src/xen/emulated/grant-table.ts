/**
 * One domain's grant table: which of its pages it lets which domain touch (grant_table.h). Checks
 * and answers are those of Xen's gnttab_map_grant_ref and gnttab_copy, GNTST values included.
 */
import { GrantError, MisuseError } from '../../errors.js';
import type { LocalRegion } from '../local-memory.js';
import { READ_ONLY, TABLE_ENTRY_BYTES } from './copy-kernel.js';
import type { Frame, MachineMemory } from './machine-memory.js';

export const GNTST_GENERAL_ERROR = -1;
export const GNTST_BAD_DOMAIN = -2;
export const GNTST_BAD_GNTREF = -3;

/** The first reference a guest uses: GNTTAB_NR_RESERVED_ENTRIES lie before it. */
export const FIRST_REF = 8;
/** One page of version 1 entries; a table grows by whole pages, and below its end a ref exists. */
const ENTRIES_PER_PAGE = 512;
/** What a Linux guest of 64 grant table pages, Xen's default, can grant. */
export const GRANTS_MAX_DEFAULT = 64 * ENTRIES_PER_PAGE;

/** A page granted under a reference, or a mapping of one whose reference is gone by now. */
export interface GrantEntry {
  readonly ref: number;
  readonly frame: Frame;
  readonly domid: number;
  readonly readOnly: boolean;
  /** How many mappings there are at this moment. */
  pins: number;
  /** Whether the grant ends by itself with its last mapping, its owner being done with it. */
  deferred: boolean;
}

export class GrantTable {
  readonly domid: number;
  readonly #memory: MachineMemory;
  readonly #grantsMax: number;
  #entries: (GrantEntry | undefined)[] = [];
  /** What a copy asks of each reference, as copy-kernel.ts reads it; it grows by doubling. */
  #region: LocalRegion;
  #words: Uint32Array;
  /** References given back, the last one on top: Linux hands it out again first. */
  readonly #freed: number[] = [];
  #unused = FIRST_REF;
  #tableSize = ENTRIES_PER_PAGE;

  /** @throws GrantError when the machine has no memory for a table. */
  constructor(domid: number, memory: MachineMemory, grantsMax: number = GRANTS_MAX_DEFAULT) {
    this.domid = domid;
    this.#memory = memory;
    this.#grantsMax = grantsMax;
    this.#region = memory.allocateHeap(ENTRIES_PER_PAGE * TABLE_ENTRY_BYTES);
    this.#words = wordsOf(memory, this.#region);
  }

  /** Where the table lies, as the copy kernel takes it. */
  get address(): number {
    return this.#region.offset;
  }

  /** How many entries lie there: none once the domain is gone. */
  get refs(): number {
    return this.#words.length >>> 1;
  }

  /**
   * Grants `frame` to `domid` under the next free reference, or under `ref`, which replaces
   * whatever stood there: a guest can write what it likes into its own table.
   * @throws GrantError when the table is full.
   */
  grant(frame: Frame, domid: number, access: 'read' | 'write', ref = this.#takeRef()): GrantEntry {
    if (ref >= this.#grantsMax) {
      throw new MisuseError(`Grant ${ref} lies past the end of domain ${this.domid}'s table.`);
    }
    while (ref >= this.#tableSize) this.#grow();
    const entry: GrantEntry = {
      ref,
      frame,
      domid,
      readOnly: access === 'read',
      pins: 0,
      deferred: false,
    };
    this.#entries[ref] = entry;
    this.#words[ref * 2] = frame.offset;
    this.#words[ref * 2 + 1] = domid | (entry.readOnly ? READ_ONLY : 0);
    return entry;
  }

  /** The grant that stands under `ref` now. */
  entry(ref: number): GrantEntry | undefined {
    return this.#entries[ref];
  }

  /** Ends a grant. Its mappings stay; the reference may be used again. */
  end(entry: GrantEntry): void {
    if (this.#entries[entry.ref] !== entry) return;
    this.#entries[entry.ref] = undefined;
    this.#words[entry.ref * 2] = 0;
    this.#freed.push(entry.ref);
  }

  /** Ends all grants, for the domain is gone. */
  clear(): void {
    this.#entries = [];
    if (this.refs === 0) return;
    this.#words = NO_WORDS;
    this.#region.free();
  }

  /** Whether any grant is of this page. Looks at the whole table: for tests. */
  grants(frame: Frame): boolean {
    return this.#entries.some((entry) => entry?.frame === frame);
  }

  /** Grants that wait for their last mapping to go: see `GrantEntry.deferred`. */
  deferred(): GrantEntry[] {
    return this.#entries.filter((entry): entry is GrantEntry => entry?.deferred === true);
  }

  /** Where a grant's page starts, for a copy by `domid`; a negative GNTST value if it may not. */
  resolve(ref: number, domid: number, write: boolean): number {
    const place = this.#words[ref * 2] ?? 0;
    if (place === 0) return ref < this.#tableSize ? GNTST_GENERAL_ERROR : GNTST_BAD_GNTREF;
    const rights = this.#words[ref * 2 + 1] as number;
    // Xen answers both a foreign grant and a write to a read-only one with a general error.
    if (rights === domid || (!write && rights === (domid | READ_ONLY))) return place;
    return GNTST_GENERAL_ERROR;
  }

  /** Counts a mapping by `domid` and holds the page. @throws GrantError when it is not allowed. */
  pin(ref: number, domid: number, write: boolean): GrantEntry {
    const status = this.resolve(ref, domid, write);
    const entry = this.#entries[ref];
    if (status < 0 || entry === undefined) {
      throw new GrantError(
        `Domain ${domid} may not map grant ${ref} of domain ${this.domid} (GNTST ${status}).`,
        { status: String(status) },
      );
    }
    entry.pins += 1;
    entry.frame.hold();
    return entry;
  }

  /** Ends one mapping, also of a grant that was ended before. */
  unpin(entry: GrantEntry): void {
    entry.pins -= 1;
    entry.frame.release();
    if (entry.pins > 0 || !entry.deferred) return;
    entry.deferred = false;
    this.end(entry);
    entry.frame.release();
  }

  #grow(): void {
    this.#tableSize += ENTRIES_PER_PAGE;
    if (this.#tableSize <= this.refs) return;
    const region = this.#memory.allocateHeap(this.#region.length * 2);
    const words = wordsOf(this.#memory, region);
    words.set(this.#words);
    this.#region.free();
    this.#region = region;
    this.#words = words;
  }

  /** A raw guest may have put an entry of its own under any reference, so taken ones are skipped. */
  #takeRef(): number {
    for (let ref = this.#freed.pop(); ref !== undefined; ref = this.#freed.pop()) {
      if (this.#entries[ref] === undefined) return ref;
    }
    while (this.#entries[this.#unused] !== undefined) this.#unused += 1;
    if (this.#unused >= this.#grantsMax) {
      throw new GrantError(`Domain ${this.domid} has no grant reference left.`);
    }
    this.#unused += 1;
    return this.#unused - 1;
  }
}

const NO_WORDS = new Uint32Array(0);

function wordsOf({ buffer }: MachineMemory, { length, offset }: LocalRegion): Uint32Array {
  return new Uint32Array(buffer, offset, length / 4);
}
