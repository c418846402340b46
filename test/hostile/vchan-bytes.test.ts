/** Case 58, byte by byte: each of the shared page becomes anything in the midst of the traffic. */
import { describe, expect } from 'vitest';
import type { VchanStream } from '../../src/device/vchan/index.js';
import * as ring from '../../src/ring/vchan-ring.js';
import type { Page } from '../../src/xen/page.js';
import { PAGE_SIZE } from '../../src/xen/xen.js';
import { type SeededRandom, seededRandom } from '../support/random.js';
import { hostileVchan, outcome, type VchanScene } from './vchan-scene.js';

type Role = 'server' | 'client';

/** Where the peer of our server, or of our client, keeps its indices, and how large the rings are. */
const PEER = {
  server: {
    ...{ read: ring.RIGHT_CONS, unread: ring.RIGHT_PROD, readBytes: 2048 },
    ...{ written: ring.LEFT_PROD, taken: ring.LEFT_CONS, writeBytes: 1024 },
  },
  client: {
    ...{ read: ring.LEFT_CONS, unread: ring.LEFT_PROD, readBytes: 1024 },
    ...{ written: ring.RIGHT_PROD, taken: ring.RIGHT_CONS, writeBytes: 2048 },
  },
} as const;

/** A channel with both rings in the page, whose peer keeps to the rules but for one byte at a time. */
class Channel {
  readonly stream: VchanStream;
  readonly ended: Promise<{ code: string }>;
  readonly #role: Role;
  readonly #page: Page;
  readonly #notify: () => void;
  readonly #leave: () => void;
  #written = 0;
  /** Runs down with each moment that passes; at zero the byte is written. */
  #moments = 0;
  #corruption: (() => void) | undefined;

  private constructor(
    role: Role,
    stream: VchanStream,
    page: Page,
    notify: () => void,
    leave: () => void,
  ) {
    this.#role = role;
    this.stream = stream;
    this.ended = outcome(stream);
    this.#page = page;
    this.#notify = notify;
    this.#leave = leave;
  }

  static async open(scene: VchanScene, role: Role): Promise<Channel> {
    if (role === 'server') {
      const { peer, stream } = await scene.serve(1024);
      const { channel, page } = peer;
      return new Channel(
        role,
        stream,
        page,
        () => channel.notify(),
        () => peer.leave(),
      );
    }
    const { channel, page } = await scene.offer({ left: 10, right: 11 }, 0);
    const stream = await scene.connect();
    const opened = new Channel(
      role,
      stream,
      page,
      () => channel.notify(),
      () => channel.close(),
    );
    // The page is the guest's, so that each look of ours at it is a moment, too.
    scene.guest.raw.watchReads(page, () => opened.#pass());
    return opened;
  }

  /** A few rounds of traffic both ways, in which the byte `at` becomes another. */
  async corrupt(at: number, random: SeededRandom): Promise<void> {
    const value = random.below(256);
    this.#moments = random.below(16);
    this.#corruption = () => this.#page.writeU8(at, value);
    for (let round = 0; round < 3; round++) {
      if (!this.stream.writableNeedDrain) this.stream.write(Buffer.alloc(1 + random.below(1500)));
      this.#pass();
      this.#take();
      this.#pass();
      this.#give(1 + random.below(1500));
      this.#pass();
      this.#notify();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#corruption?.();
    this.#corruption = undefined;
    this.#notify();
    await new Promise((resolve) => setImmediate(resolve));
  }

  leave(): void {
    this.#leave();
  }

  #pass(): void {
    this.#moments -= 1;
    if (this.#moments >= 0) return;
    const corruption = this.#corruption;
    this.#corruption = undefined;
    corruption?.();
  }

  /** Reads all that there is. */
  #take(): void {
    const { read, unread } = PEER[this.#role];
    this.#page.storeIndex(read, this.#page.loadIndex(unread));
  }

  /** Writes as many bytes as there is room for. */
  #give(bytes: number): void {
    const { taken, writeBytes, written } = PEER[this.#role];
    const waiting = (this.#written - this.#page.loadIndex(taken)) >>> 0;
    const count = Math.max(0, Math.min(bytes, writeBytes - waiting));
    this.#written = (this.#written + count) >>> 0;
    this.#page.storeIndex(written, this.#written);
  }
}

describe.each(['server', 'client'] as const)('our %s', (role) => {
  hostileVchan('case 58: each byte of the page, at a moment of the traffic', async (scene) => {
    const random = seededRandom(role === 'server' ? 58 : 59);
    const codes = new Map<string, number>();
    const end = async (channel: Channel) => {
      const { code } = await channel.ended;
      codes.set(code, (codes.get(code) ?? 0) + 1);
      channel.leave();
      expect(scene.held()).toEqual([]);
    };
    let channel = await Channel.open(scene, role);
    for (let at = 0; at < PAGE_SIZE; at++) {
      await channel.corrupt(at, random);
      if (!channel.stream.destroyed) continue;
      await end(channel);
      channel = await Channel.open(scene, role);
    }
    channel.stream.destroy();
    await end(channel);
    // Nonsense in an index, or an end that is none, which may come in the midst of a write; all else
    // changes bytes of the stream, or nothing.
    const { DISCONNECTED: _, ...others } = Object.fromEntries(codes);
    expect(Object.keys(others).sort()).toEqual(['END', 'VCHAN_INDEX_INVALID']);
  });
});
