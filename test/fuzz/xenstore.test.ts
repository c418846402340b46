import { test } from 'vitest';
import type { SeededRandom } from '../support/random.js';
import { fuzz, fuzzTimeoutMs, once, pick } from './engine.js';
import { type NodeValue, type StoreCase, storeTarget } from './store-target.js';

/** States that are none, and so no reason to do anything. */
const RUBBISH_STATES = ['0', '9', '99', '', '4 x', '-1', '04', '4\n', 'connected', '４'];
const STATES = ['1', '2', '3', '4', '5', '6', '7', '8'];

/** `$0` stands for the reference of the first TX ring. */
const VALUES: readonly NodeValue[] = [
  ...[null, '', '0', '1', '2', '3', '8', '9', '01', ' 1', '1 ', '+1', '-1', '0x1', '1e0', '1.0'],
  ...['4294967295', '4294967296', '99999999999999999999', 'NaN', 'true', '\0', '1\0', '\xff\xfe'],
  ...['$0', '1023', '1024', '7'.repeat(2000), '１', '1\n', '../1'],
];

const LINKS: readonly NodeValue[] = [
  ...[null, '', '/', '$frontend', '$frontend/', '$frontend0', '$frontend/../0', '//$frontend'],
  ...['/local/domain/0/device/vif/0', '/local/domain/1/device/vif/1', 'x'.repeat(3000), '..'],
];

const TOOLSTACK: readonly [name: string, values: readonly NodeValue[]][] = [
  ['frontend', LINKS],
  ['frontend-id', [null, '', '0', '99', '-1', 'x'.repeat(3000)]],
  ['online', [null, '0', '', '1', '2', 'x']],
  ['mac', [null, '', '00:16:3e:00:00:01', 'ff:ff:ff:ff:ff:ff', 'x'.repeat(3000), '00:16']],
  ['handle', [null, '', '0', '7', '-1', 'x']],
  ['type', [null, '', 'vif', 'vif_ioemu', 'x'.repeat(3000)]],
  ['bridge', [null, '', 'xenbr0', '../x', 'x'.repeat(3000)]],
  ['script', [null, '', '/bin/false', '$(reboot)']],
  ['ip', [null, '', '10.0.0.1', '::1 10.0.0.1', 'x'.repeat(3000)]],
  ['hotplug-status', [null, '', 'error', 'connected']],
  ['mtu', [null, '', '0', '67', '68', '9000', '65535', '65536', '-1', '1500x', 'x'.repeat(3000)]],
  ['rate', [null, '', '0,0', '1', '100000000,50000', '1,99999999999', '-1,1', 'x'.repeat(3000)]],
  ['nobody-knows-this', ['', '1', 'x'.repeat(3000)]],
];

function generateStoreCase(random: SeededRandom): StoreCase {
  const queues = once(random, 3) ? 2 : 1;
  const control = once(random, 4);
  const split = once(random, 2);
  const frontend: Record<string, NodeValue> = {};
  const names = nodeNames(queues, split, control);
  for (let changes = pick(random, [0, 0, 1, 1, 1, 2, 3]); changes > 0; changes -= 1) {
    const name = pick(random, names);
    const isOff = name === 'request-rx-copy' && once(random, 2);
    frontend[name] = isOff ? pick(random, [null, '0']) : pick(random, VALUES);
  }
  const toolstack: Record<string, NodeValue> = {};
  for (let changes = pick(random, [0, 0, 0, 1, 2]); changes > 0; changes -= 1) {
    const [name, values] = pick(random, TOOLSTACK);
    toolstack[name] = pick(random, values);
  }
  const some = (states: readonly string[], most: number) =>
    Array.from({ length: random.below(most) }, () => pick(random, states));
  return {
    queues,
    split,
    control,
    before: once(random, 4) ? some(RUBBISH_STATES, 5) : [],
    frontend,
    toolstack,
    nonsense: once(random, 15) ? random.below(queues * 2) : -1,
    after: once(random, 2) ? some([...STATES, ...STATES, ...RUBBISH_STATES], 30) : [],
  };
}

function nodeNames(queues: number, split: boolean, control: boolean): string[] {
  const channels = split ? ['event-channel-tx', 'event-channel-rx'] : ['event-channel'];
  const perQueue = ['tx-ring-ref', 'rx-ring-ref', ...channels];
  const prefixes = queues === 1 ? [''] : ['queue-0/', 'queue-1/'];
  return [
    ...prefixes.flatMap((prefix) => perQueue.map((name) => `${prefix}${name}`)),
    ...['multi-queue-num-queues', 'request-rx-copy', 'feature-sg', 'feature-rx-notify'],
    ...['feature-gso-tcpv4', 'feature-no-csum-offload', 'request-multicast-control'],
    ...(control ? ['ctrl-ring-ref', 'event-channel-ctrl'] : []),
  ];
}

test('whatever is in XenStore, the model and the backend agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(storeTarget(generateStoreCase));
});
