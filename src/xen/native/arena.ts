/**
 * The address range that real grant copies reach, viewed once. It is never unmapped, because a
 * touch of a view on unmapped memory kills the process; a range that is done with gives its pages
 * back to the system and waits for the next use.
 */
import { constants } from 'node:buffer';
import koffi from 'koffi';
import { UnavailableError } from '../../errors.js';
import { LocalMemory } from '../local-memory.js';
import { lastErrno, libc, type Pointer } from './library.js';

const PROT_READ_WRITE = 3;
/** With MAP_NORESERVE: most of it is never touched, and a small domain could not promise it. */
const MAP_PRIVATE_ANONYMOUS = 0x4022;
const MADV_DONTNEED = 4;
/** What mmap returns when it fails: (void *)-1. */
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

const mmap = libc.func(
  'void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, int64_t offset)',
);
const madvise = libc.func('int madvise(void *address, size_t bytes, int advice)');

interface Range {
  readonly address: Pointer;
  readonly view: ArrayBuffer;
}

const idle: Range[] = [];

export interface Arena {
  readonly memory: LocalMemory;
  /** Ends the use: what the range holds is lost, and nobody may touch it any more. */
  release(): void;
}

/** @throws UnavailableError when neither the system nor Node has a range so long. */
export function openArena(bytes: number): Arena {
  const index = idle.findIndex(({ view }) => view.byteLength === bytes);
  const [range = mapRange(bytes)] = index === -1 ? [] : idle.splice(index, 1);
  return {
    memory: new LocalMemory(range.view, range.address),
    release: () => {
      madvise(range.address, bytes, MADV_DONTNEED);
      idle.push(range);
    },
  };
}

function mapRange(bytes: number): Range {
  // Addresses without memory are cheap, so the system may give more than Node can view; koffi then
  // ends the process instead of throwing.
  if (bytes > constants.MAX_LENGTH) {
    const text = `No ${bytes} bytes of memory: Node views at most ${constants.MAX_LENGTH}.`;
    throw new UnavailableError('XEN_UNAVAILABLE', text);
  }
  const address: Pointer | null = mmap(null, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  if (address === null || address === MAP_FAILED) {
    throw new UnavailableError('XEN_UNAVAILABLE', `No ${bytes} bytes of memory: ${lastErrno()}.`);
  }
  return { address, view: koffi.view(address, bytes) };
}
