import { beforeEach, describe, expect, test } from 'vitest';
import { CopyBatch, SEGMENT_SIZE } from '../../../../src/xen/copy-batch.js';
import {
  allocateKernelMemory,
  type CopyBounds,
  CopyKernel,
  type KernelMemory,
  LIST_BYTES,
  READ_ONLY,
} from '../../../../src/xen/emulated/copy-kernel.js';
import { LocalMemory } from '../../../../src/xen/local-memory.js';
import { PAGE_SIZE } from '../../../../src/xen/xen.js';
import { seededRandom } from '../../../support/random.js';

const TABLE = LIST_BYTES;
const REFS = 64;
/** A page for each reference, then memory of the one who copies. */
const PAGES = TABLE + PAGE_SIZE;
const OURS = PAGES + REFS * PAGE_SIZE;
const OURS_END = OURS + 256 * 1024;
const BYTES = OURS_END + PAGE_SIZE;
const OWN = 7;
const DOMID = 3;
/** References that are not what the others are: granted to read, to somebody else, not at all. */
const READABLE = 1;
const FOREIGN = 2;
const FREE = 3;

let memory: KernelMemory;
let bytes: Uint8Array;
let kernel: CopyKernel;
let batch: CopyBatch;
const bounds: CopyBounds = {
  domid: DOMID,
  table: TABLE,
  refs: REFS,
  own: OWN,
  from: OURS,
  until: OURS_END,
};

beforeEach(() => {
  memory = allocateKernelMemory(BYTES);
  bytes = new Uint8Array(memory.buffer);
  kernel = new CopyKernel(memory);
  batch = new CopyBatch(new LocalMemory(memory.buffer, 0n), 2000);
  const entries = new Uint32Array(memory.buffer, TABLE, REFS * 2);
  for (let ref = 0; ref < REFS; ref += 1) {
    entries[ref * 2] = ref === FREE ? 0 : PAGES + ref * PAGE_SIZE;
    entries[ref * 2 + 1] = ref === READABLE ? OWN | READ_ONLY : ref === FOREIGN ? OWN + 1 : OWN;
  }
});

function run(): number {
  const { buffer } = batch.segments;
  return kernel.run(new Uint32Array(buffer), 0, batch.count, bounds);
}

describe('the copy kernel', () => {
  test('does what copyWithin does, in order, for any length and any number, 100 seeds', () => {
    for (let seed = 1; seed <= 100; seed += 1) {
      const random = seededRandom(seed);
      for (let index = PAGES; index < BYTES; index += 97) bytes[index] = random.below(256);
      const oracle = bytes.slice();
      batch.clear();
      for (let copies = random.below(2000); copies > 0; copies -= 1) {
        const length = 1 + random.below(random.below(2) === 0 ? 40 : PAGE_SIZE);
        const offset = random.below(PAGE_SIZE + 1 - length);
        const ref = 4 + random.below(REFS - 4);
        const local = OURS + random.below(OURS_END - OURS + 1 - length);
        const place = PAGES + ref * PAGE_SIZE + offset;
        // A copy's target may be the next one's source.
        if (random.below(2) === 0) {
          batch.fromGrant(DOMID, ref, offset, local, length);
          oracle.copyWithin(local, place, place + length);
        } else {
          batch.toGrant(DOMID, ref, offset, local, length);
          oracle.copyWithin(place, local, local + length);
        }
      }
      expect(run(), `seed ${seed}`).toBe(batch.count);
      expect(Buffer.compare(bytes.subarray(LIST_BYTES), oracle.subarray(LIST_BYTES))).toBe(0);
    }
  });

  test('reads what may only be read', () => {
    bytes[PAGES + READABLE * PAGE_SIZE] = 0x5a;
    batch.fromGrant(DOMID, READABLE, 0, OURS, 1);
    expect(run()).toBe(1);
    expect(bytes[OURS]).toBe(0x5a);
  });

  const disorders: Record<string, () => void> = {
    'of no bytes': () => batch.fromGrant(DOMID, 8, 0, OURS, 0),
    'of another domain': () => batch.fromGrant(DOMID + 1, 8, 0, OURS, 64),
    'whose grant is not there': () => batch.fromGrant(DOMID, FREE, 0, OURS, 64),
    'whose grant is past the table': () => batch.fromGrant(DOMID, REFS, 0, OURS, 64),
    'whose grant is far past the table': () => batch.fromGrant(DOMID, 0xffffffff, 0, OURS, 64),
    'whose grant is somebody else’s': () => batch.fromGrant(DOMID, FOREIGN, 0, OURS, 64),
    'to a page that may only be read': () => batch.toGrant(DOMID, READABLE, 0, OURS, 64),
    'from before our memory': () => batch.toGrant(DOMID, 8, 0, OURS - 1, 64),
    'to before our memory': () => batch.fromGrant(DOMID, 8, 0, OURS - 1, 64),
    'to past our memory': () => batch.fromGrant(DOMID, 8, 0, OURS_END - 63, 64),
    'to far past our memory': () => batch.fromGrant(DOMID, 8, 0, 0xffffffff - 10, 64),
    'to where no address is': () => batch.fromGrant(DOMID, 8, 0, 0x1_0000_0000 + OURS, 64),
    'that leaves its page': () => {
      batch.fromGrant(DOMID, 8, 0, OURS, 64);
      patch((words) => {
        words[1] = (DOMID << 16) | (PAGE_SIZE - 63);
      });
    },
    'between two grants': () => {
      batch.fromGrant(DOMID, 8, 0, OURS, 64);
      patch((words) => {
        words[4] = 64 | (3 << 16);
      });
    },
    'without a grant': () => {
      batch.fromGrant(DOMID, 8, 0, OURS, 64);
      patch((words) => {
        words[4] = 64;
      });
    },
  };

  /** Changes the words of the segment that was added last. */
  function patch(change: (words: Uint32Array) => void): void {
    const { buffer } = batch.segments;
    change(new Uint32Array(buffer, (batch.count - 1) * SEGMENT_SIZE, SEGMENT_SIZE / 4));
  }

  test.each(Object.entries(disorders))('stops at a segment %s, and changes nothing', (_, add) => {
    bytes.fill(0x11, PAGES, OURS);
    bytes.fill(0x22, OURS);
    batch.toGrant(DOMID, 9, 0, OURS, 100);
    add();
    batch.toGrant(DOMID, 10, 0, OURS, 100);
    expect(run()).toBe(1);
    const expected = bytes.slice().fill(0x11, PAGES, OURS).fill(0x22, OURS);
    expected.fill(0x22, PAGES + 9 * PAGE_SIZE, PAGES + 9 * PAGE_SIZE + 100);
    expect(Buffer.compare(bytes.subarray(PAGES), expected.subarray(PAGES))).toBe(0);
  });

  test('traps at the end of the memory instead of reaching beyond it', () => {
    const entries = new Uint32Array(memory.buffer, TABLE, REFS * 2);
    entries[8 * 2] = memory.buffer.byteLength - 32;
    batch.fromGrant(DOMID, 8, 0, OURS, 64);
    expect(run).toThrow(/out of bounds/);
  });
});
