/**
 * Runs in dom0 as long as a test does and answers questions about the daemon's vifs by the SDK: a
 * JSON document a line, {id, question, parameters} in and {id, value} or {id, error} out.
 */
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { XenvifClient } from '@xenvif/client';

const POLL_MS = 100;

// By the port and not by the socket, which is not there before the daemon is.
const client = new XenvifClient({ address: '127.0.0.1:7637' });

function viewOf(vif) {
  const { name, domid, handle, status } = vif;
  const { phase, reason, message, backendState, frontendState, queues, connects } = status;
  const features = status.features ?? {};
  return {
    ...{ name, domid, handle, phase, reason, message, backendState, frontendState },
    ...{ queues, connects: Number(connects), features },
  };
}

const questions = {
  async vifs() {
    const found = [];
    for await (const vif of client.vifs.list()) found.push(viewOf(vif));
    return found;
  },
  async stats(name) {
    const [stats] = await client.stats.get([name]);
    return stats;
  },
  /** Also while the daemon is away, or the vif is not there yet. */
  async wait(name, phases, connectsMin, timeoutMs) {
    const end = Date.now() + timeoutMs;
    let last = '';
    while (Date.now() < end) {
      try {
        const vif = viewOf(await client.vifs.get(name));
        if (phases.includes(vif.phase) && vif.connects >= connectsMin) return vif;
        last = `${vif.phase} (${vif.reason}) after ${vif.connects} connects`;
      } catch (error) {
        last = String(error);
      }
      await sleep(POLL_MS);
    }
    throw new Error(`${name} did not come to ${phases.join(' or ')}: ${last}`);
  },
};

const plain = (_key, value) => (typeof value === 'bigint' ? Number(value) : value);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, question, parameters } = JSON.parse(line);
  questions[question](...parameters).then(
    (value) => console.log(JSON.stringify({ id, value }, plain)),
    (error) => console.log(JSON.stringify({ id, error: String(error) })),
  );
}
client.close();
