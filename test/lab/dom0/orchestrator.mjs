/**
 * An orchestration tool that a user without any rights runs in dom0: it makes, changes and removes vifs
 * and watches them, by the SDK, as questions.mjs has it asked.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { XenvifClient } from '@xenvif/client';
import { answer } from './questions.mjs';

const POLL_MS = 50;

const client = new XenvifClient({ address: '127.0.0.1:7637' });
/** What the watch has told, each with its type. */
const told = [];

async function follow() {
  for await (const event of client.vifs.watch()) {
    if (event.vif !== undefined) told.push({ type: event.type, ...event.vif });
  }
}
const watching = follow();

/** JSON has no bigint. */
function withRate({ rate, ...options }) {
  if (rate === undefined || rate === null) return { rate, ...options };
  return { rate: { ...rate, bytesPerInterval: BigInt(rate.bytesPerInterval) }, ...options };
}

await answer({
  async whoAmI() {
    return process.getuid();
  },
  async create(domid, options) {
    return await client.vifs.create(domid, withRate(options));
  },
  async get(name) {
    return await client.vifs.get(name);
  },
  async update(name, changes) {
    return await client.vifs.update(name, withRate(changes));
  },
  async delete(name) {
    await client.vifs.delete(name);
  },
  /** Resolves with the vif as it was when the watch told of this. */
  async told(type, uid, timeoutMs) {
    for (let waited = 0; waited < timeoutMs; waited += POLL_MS) {
      const found = told.find((event) => event.type === type && event.uid === uid);
      if (found !== undefined) return found;
      await sleep(POLL_MS);
    }
    throw new Error(`the watch told of ${told.map(({ type, name }) => `${type} ${name}`)}`);
  },
});
client.close();
await watching.catch(() => undefined);
