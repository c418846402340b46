/**
 * What a backend is in the midst of answering, kept where it outlives the backend: in the padding of
 * the shared ring's page (`__pad` of xen/io/ring.h, which no frontend reads).
 *
 * An answer lies in the slot of its request. A daemon that is killed after it wrote answers and before
 * it published them leaves slots that look like requests and are none: their grant references are gone,
 * and whoever took them for requests would copy from wrong pages and answer with wrong ids. So a backend
 * notes how far answers are going to reach before it writes the first, and which one it writes. The next
 * backend finds in the note which slots still are requests.
 *
 *   36 u32 mark   40 u32 end   44 u32 next   48 u32 extras from   52 u32 extras   56 u32 extra ids
 *
 * Indices are free-running. Answers from rsp_prod to `end` are being written; which of them have been,
 * `next` and the direction of writing tell. Once rsp_prod has reached `end` the note means nothing. A
 * frontend can write here, too: it gets wrong answers to its own requests for that, within its own ring.
 */
import type { Page } from '../xen/page.js';

const MARK = 36;
const END = 40;
const NEXT = 44;
const EXTRAS_FROM = 48;
const EXTRAS = 52;
const EXTRA_IDS = 56;

/** "xvif": what else may lie in the padding is no note of ours. */
const OURS = 0x66697678;

/** What an earlier backend was in the midst of; indices from its rsp_prod on. */
export interface UnfinishedAnswers {
  /** How many answers there are to be. */
  readonly count: number;
  /** Which of them was being written; `count` when none was yet. */
  readonly next: number;
  /** The first of the slots whose request ids are noted, and those ids. */
  readonly extrasFrom: number;
  readonly extraIds: readonly number[];
}

export class AnswerLog {
  readonly #page: Page;

  constructor(page: Page) {
    this.#page = page;
  }

  /**
   * What an earlier backend left unfinished at `rspProd`, with `pending` requests behind it; undefined
   * when there is nothing. The note is there from now on for our own answers.
   */
  take(rspProd: number, pending: number): UnfinishedAnswers | undefined {
    const page = this.#page;
    const isOurs = page.readU32(MARK) === OURS;
    const count = (page.readU32(END) - rspProd) >>> 0;
    const next = (page.readU32(NEXT) - rspProd) >>> 0;
    if (isOurs && count > 0 && count <= pending && next <= count) {
      const extras = Math.min(page.readU32(EXTRAS), 2);
      const ids = page.readU32(EXTRA_IDS);
      return {
        count,
        next,
        extrasFrom: (page.readU32(EXTRAS_FROM) - rspProd) >>> 0,
        extraIds: [ids & 0xffff, ids >>> 16].slice(0, extras),
      };
    }
    this.reset(rspProd);
    return undefined;
  }

  /** Forgets whatever is noted: nothing is being answered. */
  reset(rspProd: number): void {
    // Without the mark nothing of it counts, whenever we may be interrupted.
    this.#page.writeU32(MARK, 0);
    this.#page.writeU32(END, rspProd);
    this.#page.writeU32(NEXT, rspProd);
    this.#page.writeU32(EXTRAS, 0);
    this.#page.writeU32(MARK, OURS);
  }

  /** Answers up to `end` are going to be written, `next` first. The requests are done with. */
  begin(end: number, next: number): void {
    this.#page.writeU32(NEXT, next);
    this.#page.writeU32(END, end);
  }

  /** The answer of `index` is the next to be written, or the first of a frame's. */
  reached(index: number): void {
    this.#page.writeU32(NEXT, index);
  }

  /** Notes the ids of up to two slots, in which an answer has no place for them. */
  noteExtras(from: number, count: number, ids: number): void {
    this.#page.writeU32(EXTRA_IDS, ids);
    this.#page.writeU32(EXTRAS, count);
    // Last: as long as this names another frame, the others count for nothing.
    this.#page.writeU32(EXTRAS_FROM, from);
  }
}
