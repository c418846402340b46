/**
 * Pages that the backend gave back while it still has them mapped (XSA-396). They are not used
 * again before it lets go: whoever maps a page sees, and may change, what is put there next.
 */
import type { SharedPages } from '../../xen/xen.js';

export class HeldPages {
  readonly #pages: SharedPages;
  readonly #indices: Uint16Array;
  #count = 0;

  constructor(pages: SharedPages) {
    this.#pages = pages;
    this.#indices = new Uint16Array(pages.pages.length);
  }

  get count(): number {
    return this.#count;
  }

  /**
   * Whether page `index` cannot be used yet; it is kept here then. Where nothing can tell whether
   * a page is mapped, none is ever held.
   */
  holds(index: number): boolean {
    if (this.#pages.inUse(index) !== true) return false;
    this.#indices[this.#count] = index;
    this.#count += 1;
    return true;
  }

  /** Takes out a page that was let go of; -1 when there is none. */
  takeReleased(): number {
    for (let place = this.#count - 1; place >= 0; place -= 1) {
      const index = this.#indices[place] as number;
      if (this.#pages.inUse(index) === true) continue;
      this.#count -= 1;
      this.#indices[place] = this.#indices[this.#count] as number;
      return index;
    }
    return -1;
  }
}
