/**
 * xenstored killed on real Xen: what has been connected goes on, what would need XenStore is refused at
 * once. No xenstored of Xen's takes up the state of one that was killed, so the machine is over with it.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from './deferred.js';
import type { Lab } from './lab.js';
import { Orchestrator } from './orchestrator.js';
import { Pinging } from './pinging.js';
import { LEFT, logFolder, type Pair, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs } from './soak.js';
import type { Xenvifd } from './xenvifd.js';

const logDir = logFolder('orchestration-xenstored');
const WATCH_MS = 5000;
/** Nobody waits for its end in dom0, so what is left of it stays. */
const KILL_XENSTORED = [
  'victim=$(busybox pidof oxenstored)',
  'kill -KILL $victim',
  "until grep -q '^State:.Z' /proc/$victim/status; do sleep 0.1; done",
].join('\n');

let lab: Lab;
let daemon: Xenvifd;
let pair: Pair;
let tool: Orchestrator;

beforeAll(async () => {
  ({ lab, daemon, pair } = await servedMachine());
  tool = new Orchestrator(lab);
}, PREPARATION_MS);
afterAll(async () => {
  tool?.close();
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
  await lab?.shutdown();
});

test(
  'frames flow when xenstored was killed, control is refused, and xenvifd ends as it should',
  async () => {
    const domid = await pair.left.domid();
    const name = `vifs/${domid}.0`;
    expect(await tool.whoAmI()).not.toBe(0);
    // The guests' consoles go with xenstored: what they do until then they do to the end.
    await Pinging.start(pair.left, RIGHT.address);
    await lab.check(KILL_XENSTORED);

    const before = await daemon.stats(name);
    await sleep(WATCH_MS);
    const after = await daemon.stats(name);
    console.log(
      `without xenstored for ${WATCH_MS / 1000} s: ${after.tx.packets - before.tx.packets} frames from the ` +
        `guest, ${after.rx.packets - before.rx.packets} to it`,
    );
    expect(after.tx.packets).toBeGreaterThan(before.tx.packets);
    expect(after.rx.packets).toBeGreaterThan(before.rx.packets);

    const vifs = await daemon.vifs();
    expect(vifs.map(({ phase }) => phase)).toEqual(['connected', 'connected']);
    await expect(tool.create(domid, { mac: LEFT.mac })).rejects.toThrow(/XenStore/);
    expect((await tool.get(name)).status.phase).toBe('connected');
    await daemon.stop();
  },
  patienceMs(2),
);
