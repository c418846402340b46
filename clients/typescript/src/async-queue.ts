/**
 * A queue between what arrives and who asks for it. What was pushed before the end or the failure
 * is still handed out before it.
 */

interface Waiter<T> {
  readonly resolve: (item: T | undefined) => void;
  readonly reject: (error: Error) => void;
}

export class AsyncQueue<T> {
  #items: T[] = [];
  #head = 0;
  readonly #waiters: Waiter<T>[] = [];
  #ended = false;
  #failure: Error | undefined;

  /** How many items wait. */
  get count(): number {
    return this.#items.length - this.#head;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Adds an item; after the end it is dropped. */
  push(item: T): void {
    if (this.#ended) return;
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#items.push(item);
    else waiter.resolve(item);
  }

  /** No more items will come. Only the first of `end` and `fail` counts. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(undefined);
  }

  /** No more items will come, and that is a failure: one call of `take` throws it. */
  fail(error: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    const [first, ...others] = this.#waiters.splice(0);
    if (first === undefined) this.#failure = error;
    else first.reject(error);
    for (const waiter of others) waiter.resolve(undefined);
  }

  /** Forgets what waits, and ends. */
  discard(): void {
    this.#items = [];
    this.#head = 0;
    this.#failure = undefined;
    this.end();
  }

  /** The next item if one waits. */
  poll(): T | undefined {
    return this.count > 0 ? this.#shift() : undefined;
  }

  /** The next item, or undefined at the end. @throws the error given to `fail`, once. */
  take(): Promise<T | undefined> {
    if (this.count > 0) return Promise.resolve(this.#shift());
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#ended) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  #shift(): T | undefined {
    const item = this.#items[this.#head];
    this.#head += 1;
    // Array.shift moves every element; dropping the used part now and then does not.
    if (this.#head >= 1024 || this.#head === this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}
