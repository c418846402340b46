#!/usr/bin/env node
// Be a host on a guest's network: attach to its vif, answer ARP for one address and every ping to it.
//
//   node answer-pings.mjs VIF IP [--mac MAC]      for example: node answer-pings.mjs 1.0 10.0.0.9
//
// Then ping IP in the guest. Ctrl-C ends it.
import { parseArgs } from 'node:util';
import { XenvifClient } from '@xenvif/client';
import { makeHost } from './host.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { mac: { type: 'string', default: '02:00:00:00:00:09' } },
});
const [vif, address] = positionals;
if (vif === undefined || address === undefined) {
  console.error('usage: node answer-pings.mjs VIF IP [--mac MAC]');
  process.exit(2);
}

const client = new XenvifClient();
try {
  const answer = makeHost(address, values.mac);
  const nic = await client.attach(vif);
  process.once('SIGINT', () => nic.disconnect());
  console.log(`${address} is at ${values.mac} on ${nic.name}; the guest is ${nic.mac}`);
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
