#!/usr/bin/env node
// Be a host on a switch, without any privilege: answer ARP for one address and every ping to it.
//
//   node switch-port.mjs SWITCH IP [--mac MAC] [--port-id ID]
//                                      for example: node switch-port.mjs default 10.0.0.98
//
// Then ping IP from any guest on that switch. When the connection to the daemon breaks, the port comes
// back by itself, with the same name and MAC address. Ctrl-C ends it.
import { parseArgs } from 'node:util';
import { switchName, XenvifClient } from '@xenvif/client';
import { makeHost } from './host.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { mac: { type: 'string' }, 'port-id': { type: 'string' } },
});
const [name, address] = positionals;
if (name === undefined || address === undefined) {
  console.error('usage: node switch-port.mjs SWITCH IP [--mac MAC] [--port-id ID]');
  process.exit(2);
}

const client = new XenvifClient();
try {
  const nic = await client.attach(switchName(name), {
    mac: values.mac,
    portId: values['port-id'],
    // A daemon that is started anew may take longer than the five seconds that are usual.
    graceMs: 60_000,
    onStatus: (phase, reason) => console.log(`${phase} (${reason})`),
  });
  process.once('SIGINT', () => nic.disconnect());
  const answer = makeHost(address, nic.mac);
  console.log(`${address} is at ${nic.mac}, the port ${nic.name}`);
  for await (const { data } of nic) {
    const reply = answer(data);
    if (reply !== undefined) await nic.write(reply);
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}
