/**
 * What V8 is told of this process. Node makes a buffer for whatever it reads off a socket. All of them
 * die young, and a collection of the young ones, which comes with every 32 MB, costs next to nothing. But
 * V8 counts them against the limit of the old heap, too, which is small in a process that keeps little:
 * it would walk the whole heap for every 11 MB received, which is most of what receiving costs. So it
 * begins to mark at four times that; an old heap that is full is collected as ever.
 */
import { setFlagsFromString } from 'node:v8';

const TRIGGER_PERCENT = 400;

/** To be called once, at the start of a program that takes frames in bulk. */
export function expectYoungGarbage(): void {
  setFlagsFromString(`--incremental-marking-soft-trigger=${TRIGGER_PERCENT}`);
  setFlagsFromString(`--incremental-marking-hard-trigger=${TRIGGER_PERCENT}`);
}
