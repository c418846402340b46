/**
 * Runs in dom0 as long as tests do and answers questions about the daemon's vifs and switches by the
 * SDK, as questions.mjs has them asked.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { XenvifClient } from '@xenvif/client';
import { answer } from './questions.mjs';

const POLL_MS = 100;
const STATS_MS = 60_000;

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
  /** Also while the connection to a daemon that was started again is not made yet. */
  async stats(name) {
    for (const end = Date.now() + STATS_MS; ; await sleep(POLL_MS)) {
      try {
        const [stats] = await client.stats.get([name]);
        return stats;
      } catch (error) {
        if (error.code !== 'UNAVAILABLE' || Date.now() > end) throw error;
      }
    }
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
  async frameStreams() {
    return (await client.host.get()).frameStreams;
  },
  async ports(name) {
    return await client.switches.ports(name);
  },
  async entries(name) {
    const found = [];
    for await (const entry of client.switches.forwardingEntries(name)) found.push(entry);
    return found;
  },
  async createSwitch(id, options) {
    return await client.switches.create(id, options);
  },
  async deleteSwitch(name) {
    await client.switches.delete(name, { allowMissing: true });
  },
  async createTap(name, options) {
    return await client.switches.createTap(name, options);
  },
  async deletePort(name) {
    await client.switches.deletePort(name, { allowMissing: true });
  },
  /** Moves a vif to another switch, while frames flow. */
  async moveVif(name, to) {
    return viewOf(await client.vifs.update(name, { switch: to }));
  },
};

await answer(questions);
client.close();
