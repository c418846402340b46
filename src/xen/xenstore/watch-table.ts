/**
 * The watches of a client by their tokens. It is kept by the client, not by the connection, so that
 * a new connection can get the same watches. Nothing is buffered here: an event runs its callback
 * at once, and a flood of events is the callback's to coalesce.
 */
import type { StoreConnection } from './connection.js';
import { quotePath } from './path.js';
import { emitStrings, MessageType } from './wire.js';

interface Watch {
  readonly path: string;
  readonly onChange: (path: string) => void;
}

export class WatchTable {
  readonly #logger: { error(facts: object, message: string): void };
  readonly #watches = new Map<string, Watch>();
  #nextToken = 1;

  constructor(logger: { error(facts: object, message: string): void }) {
    this.#logger = logger;
  }

  /** Enters a watch and returns its token; it must be entered before xenstored can fire it. */
  add(path: string, onChange: (path: string) => void): string {
    const token = `xenvif-${this.#nextToken++}`;
    this.#watches.set(token, { path, onChange });
    return token;
  }

  /** Takes a watch out; its callback never runs again. */
  remove(token: string): void {
    this.#watches.delete(token);
  }

  clear(): void {
    this.#watches.clear();
  }

  /** Runs the callback of an event. Whatever it throws is its own fault and ends here. */
  fire(path: string, token: string): void {
    const watch = this.#watches.get(token);
    if (watch === undefined) {
      // An event that was under way when the watch was ended.
      return;
    }
    const report = (error: unknown) =>
      this.#logger.error({ err: error, path }, 'the callback of a XenStore watch failed');
    try {
      // An async function passes for one that returns nothing, and its rejection would be nobody's.
      const result: unknown = watch.onChange(path);
      if (result instanceof Promise) {
        result.catch(report);
      }
    } catch (error) {
      report(error);
    }
  }

  /** Sets every watch on a new connection, and ends there those that were taken out meanwhile. */
  async restore(connection: StoreConnection): Promise<void> {
    // One after the other: however many there are, the limit of requests is not reached.
    for (const [token, { path }] of [...this.#watches]) {
      if (!this.#watches.has(token)) {
        continue;
      }
      const watched = emitStrings(path, token);
      const subject = `watch ${quotePath(path)} again`;
      await connection.request(MessageType.WATCH, 0, watched, subject);
      if (!this.#watches.has(token)) {
        await connection.request(MessageType.UNWATCH, 0, watched, `unwatch ${quotePath(path)}`);
      }
    }
  }
}
