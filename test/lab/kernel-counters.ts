/** What a Linux kernel counts of its own network stack, in /proc/net/snmp and /proc/net/snmp6. */

import type { Peer } from './peer.js';

/** All of it, as text for `snmp`. */
export function readCounters(peer: Peer): Promise<string> {
  return peer.check('cat /proc/net/snmp /proc/net/snmp6');
}

/** A counter of /proc/net/snmp, which has a line of names over each line of values. */
export function snmp(text: string, protocol: string, name: string): number {
  const lines = text.split('\n').filter((line) => line.startsWith(`${protocol}:`));
  const [names = [], values = []] = lines.map((line) => line.split(' '));
  const value = Number(values[names.indexOf(name)]);
  if (Number.isNaN(value)) throw new Error(`There is no ${protocol} ${name}.`);
  return value;
}

/** Packets whose checksum the kernels found wrong, of all protocols. */
export async function checksumErrors(peers: readonly Peer[]): Promise<number> {
  let errors = 0;
  for (const peer of peers) {
    const text = await readCounters(peer);
    errors += snmp(text, 'Tcp', 'InCsumErrors') + snmp(text, 'Udp', 'InCsumErrors');
    errors += snmp(text, 'Icmp', 'InCsumErrors') + snmp(text, 'Ip', 'InHdrErrors');
    for (const [, count] of text.matchAll(/^(?:Udp6|Icmp6)InCsumErrors\s+(\d+)$/gm)) {
      errors += Number(count);
    }
  }
  return errors;
}
