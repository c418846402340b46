/**
 * Runs in dom0: a program without privileges that is a port of a switch, and answers pings until it
 * is killed. Its port stays for as long as the SDK asks where nobody says anything.
 *
 *     node remote-nic.mjs SWITCH IP PORT
 */
import { switchName, XenvifClient } from '@xenvif/client';
import { makeHost } from '../../../clients/typescript/examples/host.mjs';

const [name, address, portId] = process.argv.slice(2);
const client = new XenvifClient({ address: '127.0.0.1:7637' });
const nic = await client.attach(switchName(name), { portId });
const answer = makeHost(address, nic.mac);
console.log(`${address} is at ${nic.mac}, the port ${nic.name}`);
for await (const { data } of nic) {
  const reply = answer(data);
  if (reply !== undefined) await nic.write(reply);
}
