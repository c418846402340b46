// A NIC on a switch that broadcasts numbered frames until it is killed. Prints a line when they flow.
//
//   node busy-client.mjs ADDRESS SWITCH PORT MAC GRACE_MS
import { setTimeout as sleep } from 'node:timers/promises';
import { XenvifClient } from '@xenvif/client';

const [address = '', name = '', portId = '', mac = '', graceMs = ''] = process.argv.slice(2);
const client = await XenvifClient.connect({ address });
const nic = await client.attach(name, {
  portId,
  mac,
  graceMs: Number(graceMs),
  policy: { isolated: false, broadcastPerSecond: 1_000_000 },
});
void nic.listen(() => {});
const frame = Buffer.alloc(60);
frame.write(`ffffffffffff${mac.replaceAll(':', '')}88b5`, 'hex');
for (let number = 0; ; number += 1) {
  frame.writeUInt32BE(number, 14);
  await nic.write(frame);
  if (number === 200) console.log(nic.name);
  // Fast enough that something is always under way, slow enough that nobody's queue fills.
  if (number % 10 === 9) await sleep(1);
}
