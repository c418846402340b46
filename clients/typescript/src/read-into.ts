/**
 * Has Node write what an HTTP/2 stream receives to where its reader wants it. By default each piece,
 * four and more in 64 KiB, becomes a buffer that points into what was read off the socket, goes through
 * the queue of a stream, and is copied from there; and what was read stays until V8 collects it, so that
 * it is read into other, cold memory each time. Here Node copies once, and uses the same few buffers.
 *
 * Node has this for sockets (`onread` of `net.Socket`), and reads HTTP/2 streams by the same code, but
 * does not offer it there. This is the only file that reaches for what Node keeps to itself. Where that
 * is not found as it is known here, a stream is read by its events.
 */
import { Socket } from 'node:net';

/** Who is written to. */
export interface Receiver {
  /** Where the next bytes go. Never empty, and asked for again after `filled`. */
  readonly place: Uint8Array;
  /** Says that so many bytes are there. Must not throw. */
  filled(byteCount: number): void;
}

/** The stream as it lies in Node's native code. */
interface Handle {
  readonly onread: unknown;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): void;
}

/** Under what names Node's reader finds the buffer, whom to tell, and where the next buffer is from. */
interface ReaderNames {
  readonly handle: symbol;
  readonly buffer: symbol;
  readonly callback: symbol;
  readonly next: symbol;
}

const names = readerNames();

/**
 * Has all that `stream` receives from now on written to `receiver`; its events bring only the end. The
 * answer lets it receive again after it was paused. Undefined, and nothing is done, where Node is not as
 * this file knows it.
 */
export function readInto(stream: object, receiver: Receiver): (() => void) | undefined {
  if (names === undefined) return undefined;
  const handle: unknown = Reflect.get(stream, names.handle);
  if (!isHandle(handle) || handle.onread !== readerOfSocket(stream)) return undefined;
  const { place } = receiver;
  Reflect.set(stream, names.buffer, place);
  Reflect.set(stream, names.next, () => receiver.place);
  Reflect.set(stream, names.callback, (byteCount: number) => receiver.filled(byteCount));
  handle.useUserBuffer(place);
  return () => {
    // The handle of a stream that is destroyed is gone.
    const now: unknown = Reflect.get(stream, names.handle);
    if (isHandle(now)) now.readStart();
  };
}

/** A socket has all of the names, whether it uses them or not. */
function readerNames(): ReaderNames | undefined {
  const found = new Map<string | undefined, symbol>();
  for (const name of Object.getOwnPropertySymbols(new Socket())) found.set(name.description, name);
  const handle = found.get('kHandle');
  const buffer = found.get('kBuffer');
  const callback = found.get('kBufferCb');
  const next = found.get('kBufferGen');
  if (!handle || !buffer || !callback || !next) return undefined;
  return { handle, buffer, callback, next };
}

/** What Node reads the socket below `stream` by: it heeds the names, so who else reads by it does. */
function readerOfSocket(stream: object): unknown {
  let holder: unknown = stream;
  for (const name of ['session', 'socket', '_handle', 'onread']) {
    if (typeof holder !== 'object' || holder === null) return undefined;
    holder = Reflect.get(holder, name);
  }
  return typeof holder === 'function' ? holder : undefined;
}

function isHandle(value: unknown): value is Handle {
  if (typeof value !== 'object' || value === null) return false;
  const methods = ['onread', 'useUserBuffer', 'readStart'];
  return methods.every((name) => typeof Reflect.get(value, name) === 'function');
}
