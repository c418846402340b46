/**
 * A guest that obeys nobody, for tests: it grants what it likes, takes grants back whenever it
 * likes, also while they are mapped, and puts anything into its own grant table. Its memory goes
 * with the domain; what it leaves behind is no leak of ours.
 */
import { MisuseError } from '../../errors.js';
import type { Page } from '../page.js';
import type { GrantEntry, GrantTable } from './grant-table.js';
import type { Frame, MachineMemory } from './machine-memory.js';
import type { ReadHook } from './watched-page.js';

export class RawGuest {
  readonly #memory: MachineMemory;
  readonly #table: GrantTable;
  readonly #frames = new Map<Page, Frame>();

  constructor(memory: MachineMemory, table: GrantTable) {
    this.#memory = memory;
    this.#table = table;
  }

  /** A zeroed page of the guest, to write whatever a test wants into. */
  allocatePage(): Page {
    const frame = this.#memory.allocateFrame();
    const page = frame.view('write');
    this.#frames.set(page, frame);
    return page;
  }

  /** Gives a page back. Who maps it keeps seeing it, but a grant of it must be revoked before. */
  freePage(page: Page): void {
    const frame = this.#frameOf(page);
    if (this.#table.grants(frame)) throw new MisuseError('The page is still granted.');
    this.#frames.delete(page);
    page.invalidate();
    frame.release();
  }

  /**
   * Grants a page of this guest. With `ref`, writes the entry under that reference, whatever
   * stands there, and even while the old one is mapped.
   */
  grantPage(page: Page, domid: number, access: 'read' | 'write' = 'write', ref?: number): number {
    return this.#table.grant(this.#frameOf(page), domid, access, ref).ref;
  }

  /** Takes a grant back at once. Mappings stay, as in Xen; copies fail from now on. */
  revoke(ref: number): void {
    const entry: GrantEntry | undefined = this.#table.entry(ref);
    if (entry === undefined) {
      throw new MisuseError(`Domain ${this.#table.domid} has no grant ${ref}.`);
    }
    this.#table.end(entry);
  }

  /**
   * Runs `hook` after each read of this page through a mapping made from now on; the guest may
   * write into the page there, as one that runs on another processor at that moment.
   */
  watchReads(page: Page, hook: ReadHook): void {
    this.#frameOf(page).onRead = hook;
  }

  /** How many mappings of a grant there are. */
  mappings(ref: number): number {
    return this.#table.entry(ref)?.pins ?? 0;
  }

  /** Drops all memory, for the domain and its grant table are gone. */
  destroy(): void {
    for (const page of [...this.#frames.keys()]) this.freePage(page);
  }

  #frameOf(page: Page): Frame {
    const frame = this.#frames.get(page);
    if (frame === undefined) throw new MisuseError('The page is not one of this guest.');
    return frame;
  }
}
