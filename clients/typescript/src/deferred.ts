/** A promise and the means to settle it. A rejection that nobody waits for does not end the process. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  readonly #settle: { resolve: (value: T) => void; reject: (error: Error) => void };

  constructor() {
    const settle = { resolve: (_value: T): void => {}, reject: (_error: Error): void => {} };
    this.promise = new Promise<T>((resolve, reject) => {
      settle.resolve = resolve;
      settle.reject = reject;
    });
    this.#settle = settle;
    this.promise.catch(() => {});
  }

  resolve(value: T): void {
    this.#settle.resolve(value);
  }

  reject(error: Error): void {
    this.#settle.reject(error);
  }
}
