/** Where a command can run that talks to the network: a guest, or a network namespace of dom0. */

import { quoted } from './guest.js';
import type { Lab } from './lab.js';

export interface Peer {
  readonly name: string;
  /** Runs a shell command that must succeed; resolves with what it printed. */
  check(command: string, options?: { readonly timeoutMs?: number }): Promise<string>;
}

/** A network namespace of dom0, made anew, with its loopback up. */
export async function makeNamespace(lab: Lab, name: string): Promise<Peer> {
  await lab.check(`ip netns add ${name} && ip -n ${name} link set lo up`);
  return {
    name,
    // Not bash, which would read ~/.bashrc: its input looks like a network login's.
    check: (command, options = {}) =>
      lab.check(`nsenter --net=/run/netns/${name} sh -c ${quoted(command)}`, options),
  };
}
