/**
 * The errors of the stack. `code` is a stable UPPER_SNAKE word; where Node's sockets have one for the
 * same fault (ECONNRESET, EADDRINUSE and so on), it is that one, so that code written for them works.
 */
export class StackError extends Error {
  override readonly name: string = 'StackError';
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** An argument breaks a rule. */
export function invalid(code: string, message: string): StackError {
  return new StackError(code, message);
}

/** The stack was disconnected. */
export function disconnected(): StackError {
  return new StackError('DISCONNECTED', 'The stack was disconnected.');
}

/** The error that Node's own APIs reject with when their signal is aborted. */
export class AbortError extends StackError {
  override readonly name = 'AbortError';

  constructor(cause?: unknown) {
    super('ABORT_ERR', 'The operation was aborted.', { cause });
  }
}

/** @throws AbortError when the signal has been aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortError(signal.reason);
}
