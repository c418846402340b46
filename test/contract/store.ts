/**
 * What every Store must do, whether xenstored behind it is real or emulated. Only what the real
 * ones (oxenstored and the C xenstored) agree on is asked for. Nothing but node:assert is used, so
 * that the suite runs under any test runner, also inside a real domain 0.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Store, StoreWatch } from '../../src/xen/xen.js';

/** A Store to put to the test. */
export interface StoreUnderTest {
  readonly store: Store;
  /** The domain that the store is seen as. */
  readonly domid: number;
  /** A path that exists and below which the test may do as it likes. */
  readonly base: string;
  /** Breaks the connection. Where it cannot be broken, what needs it is not asked for. */
  readonly breakConnection?: () => Promise<void>;
  close(): Promise<void>;
}

export type DefineTest = (name: string, run: () => Promise<void>) => void;

/** How long something may take that happens on its own, in milliseconds. */
const PATIENCE_MS = 5_000;
/** How long is waited for something that must not happen, in milliseconds. */
const SILENCE_MS = 60;

export function storeContract(test: DefineTest, open: () => Promise<StoreUnderTest>): void {
  const define = (name: string, run: (tested: StoreUnderTest) => Promise<void>) => {
    test(name, async () => {
      const tested = await open();
      try {
        await run(tested);
      } finally {
        await tested.close();
      }
    });
  };
  nodes(define);
  directories(define);
  permissions(define);
  transactions(define);
  watches(define);
  domains(define);
  connections(define);
}

type Define = (name: string, run: (tested: StoreUnderTest) => Promise<void>) => void;

function nodes(define: Define): void {
  define('a value that was written is read back', async ({ store, base }) => {
    await store.write(`${base}/a`, 'value');
    assert.equal(await store.read(`${base}/a`), 'value');
    await store.write(`${base}/a`, 'another');
    assert.equal(await store.read(`${base}/a`), 'another');
  });

  define('values keep every byte, also NUL and what is no UTF-8', async ({ store, base }) => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    await store.write(`${base}/bytes`, bytes);
    assert.deepEqual(await store.readBytes(`${base}/bytes`), bytes);
    await store.write(`${base}/text`, 'gr\u00fc\u00dfe\0\u{1f980}');
    assert.equal(await store.read(`${base}/text`), 'gr\u00fc\u00dfe\0\u{1f980}');
    await store.write(`${base}/empty`, '');
    assert.equal(await store.read(`${base}/empty`), '');
  });

  define(
    'a write makes the parents that are missing, with empty values',
    async ({ store, base }) => {
      await store.write(`${base}/deep/er/node`, '1');
      assert.equal(await store.read(`${base}/deep/er`), '');
      assert.deepEqual(await store.directory(`${base}/deep`), ['er']);
    },
  );

  define(
    'mkdir makes an empty node and leaves one that exists as it is',
    async ({ store, base }) => {
      await store.mkdir(`${base}/dir/below`);
      assert.equal(await store.read(`${base}/dir/below`), '');
      await store.write(`${base}/dir/below`, 'kept');
      await store.mkdir(`${base}/dir/below`);
      assert.equal(await store.read(`${base}/dir/below`), 'kept');
    },
  );

  define('a missing node is ENOENT, and undefined to readIfExists', async ({ store, base }) => {
    await rejectsWith('ENOENT', store.read(`${base}/missing`));
    await rejectsWith('ENOENT', store.directory(`${base}/missing`));
    await rejectsWith('ENOENT', store.getPermissions(`${base}/missing`));
    assert.equal(await store.readIfExists(`${base}/missing`), undefined);
    assert.equal(await store.readIfExists(`${base}/missing/as/well`), undefined);
  });

  define(
    'rm removes a node with all below it, and is content when it is gone',
    async ({ store, base }) => {
      await store.write(`${base}/tree/a/b`, '1');
      await store.rm(`${base}/tree`);
      assert.equal(await store.readIfExists(`${base}/tree/a/b`), undefined);
      await store.rm(`${base}/tree`);
      await store.rm(`${base}/tree/a/b/c`);
    },
  );

  define('malformed paths are EINVAL', async ({ store, base }) => {
    const long = `${base}/${'x'.repeat(3072)}`;
    for (const path of ['', `${base}/`, `${base}//a`, `${base}/a b`, `${base}/a.b`, long]) {
      await rejectsWith('EINVAL', store.read(path));
      await rejectsWith('EINVAL', store.write(path, '1'));
      await rejectsWith(
        'EINVAL',
        store.watch(path, () => {}),
      );
    }
  });

  define('a value longer than a message is E2BIG, and names the path', async ({ store, base }) => {
    const longest = 2000;
    await store.write(`${base}/long`, 'x'.repeat(longest));
    assert.equal((await store.read(`${base}/long`)).length, longest);
    const error = await rejectsWith('E2BIG', store.write(`${base}/long`, 'x'.repeat(4096)));
    assert.ok(error.message.includes(`${base}/long`), error.message);
  });

  define('many requests at once get each its own reply', async ({ store, base }) => {
    const indices = Array.from({ length: 200 }, (_, index) => index);
    await Promise.all(indices.map((index) => store.write(`${base}/${index}`, `v${index}`)));
    const values = await Promise.all(indices.map((index) => store.read(`${base}/${index}`)));
    assert.deepEqual(
      values,
      indices.map((index) => `v${index}`),
    );
  });

  define('a relative path starts at the own domain', async ({ store, domid, base }) => {
    const prefix = `/local/domain/${domid}/`;
    if (base.startsWith(prefix)) {
      await store.write(`${base.slice(prefix.length)}/relative`, 'here');
      assert.equal(await store.read(`${base}/relative`), 'here');
    }
  });
}

function directories(define: Define): void {
  define('directory lists the children and nothing below them', async ({ store, base }) => {
    await store.write(`${base}/d/one/x`, '');
    await store.write(`${base}/d/two`, '');
    assert.deepEqual((await store.directory(`${base}/d`)).sort(), ['one', 'two']);
    assert.deepEqual(await store.directory(`${base}/d/two`), []);
  });

  define('directory lists children that do not fit into one message', async ({ store, base }) => {
    const names = Array.from({ length: 150 }, (_, index) => `${'child-'.repeat(8)}${index}`);
    for (const name of names) {
      await store.write(`${base}/long/${name}`, '');
    }
    assert.deepEqual((await store.directory(`${base}/long`)).sort(), [...names].sort());
  });
}

function permissions(define: Define): void {
  define('permissions that were set are read back in order', async ({ store, domid, base }) => {
    await store.write(`${base}/p`, '');
    const before = await store.getPermissions(`${base}/p`);
    assert.equal(before.owner, domid);
    const domains = [
      { domid: domid + 1, access: 'r' },
      { domid: domid + 2, access: 'b' },
    ] as const;
    await store.setPermissions(`${base}/p`, { owner: domid, others: 'n', domains });
    assert.deepEqual(await store.getPermissions(`${base}/p`), {
      owner: domid,
      others: 'n',
      domains,
    });
  });

  define('a new node inherits the permissions of its parent', async ({ store, domid, base }) => {
    await store.mkdir(`${base}/parent`);
    await store.setPermissions(`${base}/parent`, { owner: domid, others: 'r' });
    await store.write(`${base}/parent/child/grandchild`, '');
    for (const path of ['child', 'child/grandchild']) {
      const inherited = await store.getPermissions(`${base}/parent/${path}`);
      assert.deepEqual(inherited, { owner: domid, others: 'r' });
    }
  });
}

function transactions(define: Define): void {
  define(
    'a transaction shows its writes inside, and outside only when it committed',
    async ({ store, base }) => {
      const result = await store.transaction(async (transaction) => {
        await transaction.write(`${base}/t/a`, '1');
        await transaction.mkdir(`${base}/t/b`);
        assert.equal(await transaction.read(`${base}/t/a`), '1');
        assert.equal(await store.readIfExists(`${base}/t/a`), undefined);
        return 'result';
      });
      assert.equal(result, 'result');
      assert.equal(await store.read(`${base}/t/a`), '1');
      assert.deepEqual((await store.directory(`${base}/t`)).sort(), ['a', 'b']);
    },
  );

  define('a body that throws leaves nothing behind', async ({ store, base }) => {
    const fault = new Error('changed its mind');
    const failed = store.transaction(async (transaction) => {
      await transaction.write(`${base}/undone`, '1');
      throw fault;
    });
    await assert.rejects(failed, fault);
    assert.equal(await store.readIfExists(`${base}/undone`), undefined);
  });

  define('a transaction runs again when somebody changed what it read', async ({ store, base }) => {
    await store.write(`${base}/counter`, '1');
    let attempts = 0;
    await store.transaction(async (transaction) => {
      const seen = Number(await transaction.read(`${base}/counter`));
      attempts += 1;
      if (attempts === 1) {
        await store.write(`${base}/counter`, '10');
      }
      await transaction.write(`${base}/counter`, String(seen + 1));
    });
    assert.equal(attempts, 2);
    assert.equal(await store.read(`${base}/counter`), '11');
  });

  define(
    'a transaction runs again when what it found missing was made',
    async ({ store, base }) => {
      let attempts = 0;
      await store.transaction(async (transaction) => {
        attempts += 1;
        const found = await transaction.readIfExists(`${base}/first`);
        if (attempts === 1) {
          await store.write(`${base}/first`, 'theirs');
        }
        await transaction.write(`${base}/winner`, found ?? 'ours');
      });
      assert.equal(await store.read(`${base}/winner`), 'theirs');
    },
  );

  define('counting up in many transactions at once loses none', async ({ store, base }) => {
    await store.write(`${base}/n`, '0');
    const countUp = () =>
      store.transaction(async (transaction) => {
        const value = Number(await transaction.read(`${base}/n`));
        await transaction.write(`${base}/n`, String(value + 1));
      });
    await Promise.all(Array.from({ length: 5 }, countUp));
    assert.equal(await store.read(`${base}/n`), '5');
  });

  define(
    'removal and permissions take effect with the transaction',
    async ({ store, domid, base }) => {
      await store.write(`${base}/old/x`, '1');
      await store.transaction(async (transaction) => {
        await transaction.rm(`${base}/old`);
        await transaction.write(`${base}/new`, '2');
        await transaction.setPermissions(`${base}/new`, { owner: domid, others: 'r' });
        assert.equal(await store.read(`${base}/old/x`), '1');
      });
      assert.equal(await store.readIfExists(`${base}/old`), undefined);
      assert.deepEqual(await store.getPermissions(`${base}/new`), { owner: domid, others: 'r' });
    },
  );
}

function watches(define: Define): void {
  define(
    'a watch fires once when it is set, also for a node that is missing',
    async ({ store, base }) => {
      const events = await watchEvents(store, `${base}/missing`);
      assert.equal(await events.next(), `${base}/missing`);
      await events.silence();
    },
  );

  define(
    'a watch fires for changes at and below its path, and no others',
    async ({ store, base }) => {
      await store.mkdir(`${base}/w`);
      const events = await watchEvents(store, `${base}/w`);
      assert.equal(await events.next(), `${base}/w`);
      await store.write(`${base}/w/a/b`, '1');
      assert.equal(await events.next(), `${base}/w/a/b`);
      await store.write(`${base}/w`, '2');
      assert.equal(await events.next(), `${base}/w`);
      await store.write(`${base}/wide`, '3');
      await store.write(`${base}/other`, '3');
      await events.silence();
      await store.rm(`${base}/w/a`);
      await events.until(`${base}/w/a`);
    },
  );

  define(
    'a watch fires when its node is removed along with what is above',
    async ({ store, base }) => {
      await store.write(`${base}/above/node`, '1');
      const events = await watchEvents(store, `${base}/above/node`);
      await events.next();
      await store.rm(`${base}/above`);
      assert.equal(await events.next(), `${base}/above/node`);
    },
  );

  define('a watch fires when permissions change', async ({ store, domid, base }) => {
    await store.write(`${base}/perms`, '1');
    const events = await watchEvents(store, `${base}/perms`);
    await events.next();
    await store.setPermissions(`${base}/perms`, { owner: domid, others: 'r' });
    assert.equal(await events.next(), `${base}/perms`);
  });

  define(
    'changes of a transaction fire when it commits, and none when it aborts',
    async ({ store, base }) => {
      await store.mkdir(`${base}/tw`);
      const events = await watchEvents(store, `${base}/tw`);
      await events.next();
      const aborted = store.transaction(async (transaction) => {
        await transaction.write(`${base}/tw/no`, '1');
        throw new Error('abort');
      });
      await assert.rejects(aborted);
      await store.transaction(async (transaction) => {
        await transaction.write(`${base}/tw/yes`, '1');
        await events.silence();
      });
      assert.equal(await events.next(), `${base}/tw/yes`);
      await events.silence();
    },
  );

  define('a watch that ended is silent, and may end twice', async ({ store, base }) => {
    const events = await watchEvents(store, `${base}/u`);
    await events.next();
    await events.watch.unwatch();
    await store.write(`${base}/u`, '1');
    await events.silence();
    await events.watch.unwatch();
  });

  define('two watches of one path both fire', async ({ store, base }) => {
    const first = await watchEvents(store, `${base}/both`);
    const second = await watchEvents(store, `${base}/both`);
    await first.next();
    await second.next();
    await store.write(`${base}/both`, '1');
    assert.equal(await first.next(), `${base}/both`);
    assert.equal(await second.next(), `${base}/both`);
    await first.watch.unwatch();
    await store.write(`${base}/both`, '2');
    assert.equal(await second.next(), `${base}/both`);
    await first.silence();
  });

  define('a relative watch tells relative paths', async ({ store, domid, base }) => {
    const prefix = `/local/domain/${domid}/`;
    if (base.startsWith(prefix)) {
      const relative = base.slice(prefix.length);
      const events = await watchEvents(store, `${relative}/r`);
      assert.equal(await events.next(), `${relative}/r`);
      await store.write(`${base}/r/below`, '1');
      assert.equal(await events.next(), `${relative}/r/below`);
    }
  });

  define('a callback that throws disturbs nobody', async ({ store, base }) => {
    const broken = await store.watch(`${base}/c`, () => {
      throw new Error('a broken watcher');
    });
    const events = await watchEvents(store, `${base}/c`);
    await events.next();
    await store.write(`${base}/c`, '1');
    assert.equal(await events.next(), `${base}/c`);
    await broken.unwatch();
  });
}

function domains(define: Define): void {
  define('the path of a domain is the one below /local/domain', async ({ store }) => {
    assert.equal(await store.domainPath(7), '/local/domain/7');
  });

  define('domain 0 can ask which domains are introduced', async ({ store, domid }) => {
    if (domid === 0) {
      assert.equal(await store.isDomainIntroduced(32_000), false);
    }
  });

  define('domain 0 can watch for domains to come and go', async ({ store, domid }) => {
    if (domid === 0) {
      for (const special of ['@introduceDomain', '@releaseDomain']) {
        const events = await watchEvents(store, special);
        assert.equal(await events.next(), special);
        await events.watch.unwatch();
      }
    }
  });
}

function connections(define: Define): void {
  define(
    'what waits at a loss of the connection fails, and so does what follows',
    async (tested) => {
      const { store, base, breakConnection } = tested;
      if (breakConnection === undefined) {
        return;
      }
      const heard: boolean[] = [];
      store.onConnection((connected) => heard.push(connected));
      const lost = store.transaction(async (transaction) => {
        await transaction.write(`${base}/lost`, '1');
        await breakConnection();
        await eventually(() => !store.connected || heard.includes(false));
        await transaction.write(`${base}/lost`, '2');
      });
      await assert.rejects(lost, { code: 'XENSTORE_UNAVAILABLE' });
      await eventually(() => store.connected);
      assert.deepEqual(heard, [false, true]);
      await store.write(`${base}/after`, '1');
      assert.equal(await store.readIfExists(`${base}/lost`), undefined);
    },
  );

  define('watches come back with the connection, and each fires', async (tested) => {
    const { store, base, breakConnection } = tested;
    if (breakConnection === undefined) {
      return;
    }
    const events = await watchEvents(store, `${base}/again`);
    await events.next();
    const ended = await watchEvents(store, `${base}/again`);
    await ended.next();
    await ended.watch.unwatch();
    await breakConnection();
    assert.equal(await events.next(), `${base}/again`);
    await eventually(() => store.connected);
    await store.write(`${base}/again`, '1');
    assert.equal(await events.next(), `${base}/again`);
    await ended.silence();
  });

  define('after close every call fails', async ({ store, base }) => {
    await store.close();
    assert.equal(store.connected, false);
    await assert.rejects(store.read(base), { code: 'XENSTORE_UNAVAILABLE' });
    await assert.rejects(
      store.transaction(async () => {}),
      { code: 'XENSTORE_UNAVAILABLE' },
    );
    await store.close();
  });
}

/** Whatever a store rejects with must be a refusal of this name. */
async function rejectsWith(errno: string, promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof Error);
    assert.equal((error as Error & { errno?: unknown }).errno, errno, error.message);
    return error;
  }
  throw new assert.AssertionError({ message: `${errno} was expected, and nothing failed` });
}

async function eventually(condition: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  while (!condition()) {
    assert.ok(performance.now() < deadlineMs, 'it did not happen in time');
    await sleep(2);
  }
}

interface WatchEvents {
  readonly watch: StoreWatch;
  /** The next event, in its turn. */
  next(): Promise<string>;
  /** Events up to the one for this path. */
  until(path: string): Promise<void>;
  /** No event waits, and none comes for a while. */
  silence(): Promise<void>;
}

async function watchEvents(store: Store, path: string): Promise<WatchEvents> {
  const paths: string[] = [];
  const watch = await store.watch(path, (changed) => paths.push(changed));
  const next = async () => {
    await eventually(() => paths.length > 0);
    return paths.shift() ?? '';
  };
  return {
    watch,
    next,
    until: async (wanted) => {
      while ((await next()) !== wanted) {
        // Others before it are fine.
      }
    },
    silence: async () => {
      await sleep(SILENCE_MS);
      assert.deepEqual(paths, []);
    },
  };
}
