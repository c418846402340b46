/**
 * A command that is a host on a switch for as long as it runs: its options, and how it becomes one. An
 * address is asked of the network by DHCP, as any machine that is plugged in does, unless one is given.
 */
import { type AttachOptions, switchName } from '@xenvif/client';
import { NicLink, Stack, StackError } from '@xenvif/client/stack';
import type { Command } from 'commander';
import { CliError } from './failure.js';
import type { Session } from './session.js';

export interface SwitchHostOptions {
  readonly via: string;
  readonly from?: string;
  readonly gateway?: string;
  readonly mac?: string;
}

const DHCP_TIMEOUT_MS = 10_000;

export const SWITCH_HOST_HELP = `
Becomes a port of the switch for as long as it runs, with the address and prefix of --from. Without
--from it asks for an address and a router by DHCP, and gives the address back at its end.`;

export function addSwitchHostOptions(command: Command): Command {
  return command
    .requiredOption('--via <switch>', 'the switch to be a port of')
    .option('--from <cidr>', 'the address to ask from, with its prefix; without it: by DHCP')
    .option('--gateway <address>', 'the router for hosts elsewhere')
    .option('--mac <mac>', 'the MAC address to have; one is made unless given');
}

/** Runs `body` as a host on the switch. */
export async function asSwitchHost(
  { client, notes, interrupt }: Session,
  options: SwitchHostOptions,
  body: (stack: Stack) => Promise<void>,
): Promise<void> {
  const attaching: AttachOptions = { mac: options.mac, signal: interrupt };
  await using nic = await client.attach(switchName(options.via), attaching);
  await using stack = Stack.connect(new NicLink(nic), {
    cidr: options.from,
    gateway: options.gateway,
    onConflict: (mac) => notes.line(`${mac} uses ${stack.ipv4.ip}, too.`),
  });
  if (options.from === undefined) {
    const { cidr, server } = await leaseOf(stack, options, interrupt);
    notes.line(`The address ${cidr} is by DHCP from ${server}.`);
    if (options.gateway !== undefined) stack.ipv4.setGateways([options.gateway]);
  }
  await body(stack);
}

/** A lease as soon as there is one: the server has seen to it that nobody else has the address. */
async function leaseOf(stack: Stack, { via }: SwitchHostOptions, signal: AbortSignal) {
  try {
    return await stack.configureByDhcp({ probe: false, timeoutMs: DHCP_TIMEOUT_MS, signal });
  } catch (error) {
    if (!(error instanceof StackError) || error.code !== 'ETIMEDOUT') throw error;
    const message = `No DHCP server answers on ${via}; say --from an address and its prefix.`;
    throw new CliError('DHCP_SILENT', message);
  }
}
