/**
 * `@xenvif/client/garbage`: what V8 can be told in a program that takes frames in bulk, the daemon
 * being one. Node makes a buffer for whatever it reads off a socket. They die young, and collecting the
 * young, which comes with every 32 MB, costs next to nothing; but V8 counts them against the limit of
 * the old heap as well, and in a program that keeps little it walks the whole heap for every 11 MB
 * received: half of what receiving costs, or more.
 */
import { setFlagsFromString } from 'node:v8';

const TRIGGER_PERCENT = 400;

/**
 * Has V8 wait four times as long before it marks the old heap; one that is full is collected as ever.
 * For the whole process, so a program calls it for itself, once, when it starts.
 */
export function expectYoungGarbage(): void {
  setFlagsFromString(`--incremental-marking-soft-trigger=${TRIGGER_PERCENT}`);
  setFlagsFromString(`--incremental-marking-hard-trigger=${TRIGGER_PERCENT}`);
}
