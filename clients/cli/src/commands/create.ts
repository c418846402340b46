/** `xenvif create`. */
import type { RateLimit } from '@xenvif/client';
import type { Command } from 'commander';
import { addPolicyOptions, type PolicyOptions, policyOf } from '../policy-options.js';
import { inSession } from '../session.js';
import { durationMs, labelInto, rateLimit, wholeNumber } from '../units.js';
import { printVif } from '../vif-text.js';

interface CreateOptions extends PolicyOptions {
  readonly handle?: number;
  readonly mac?: string;
  readonly mtu?: number;
  readonly rate?: RateLimit;
  readonly switch?: string;
  readonly linkDown?: boolean;
  readonly label?: Record<string, string>;
  /** False with --no-wait. */
  readonly wait?: number | boolean;
  readonly requestId?: string;
}

const EXAMPLES = `
Examples:
  xenvif create 3
  xenvif create 3 --handle 1 --mac 00:16:3e:01:02:03 --label role=web
  xenvif create 3 --switch lan --vlan 10 --lock-mac --allow-address 10.0.0.3
  xenvif create 3 --no-wait --json`;

export function registerCreate(program: Command): void {
  const command = program
    .command('create')
    .description('plug a vif into a running guest')
    .argument('<domid>', 'the guest', wholeNumber(0, 0x7fff))
    .option('--handle <number>', 'which interface (default: the first free)', wholeNumber(0, 65535))
    .option('--mac <address>', "the guest's MAC address (default: one in 00:16:3e)")
    .option('--mtu <bytes>', 'largest Ethernet payload (default 1500)', wholeNumber(68, 65535))
    .option('--rate <rate>', 'limit on what the guest sends: 1MB/s, or bytes,usecs', rateLimit)
    .option('--switch <switch>', 'the switch to be a port of (default: the default switch)')
    .option('--link-down', 'without a carrier, until xenvif set --link up')
    .option('--label <key=value>', 'a label (repeatable)', labelInto)
    .option('--wait <duration>', 'how long the guest may take to connect (default 10s)', durationMs)
    .option('--no-wait', 'do not wait for the guest to connect')
    .option('--request-id <id>', 'makes it safe to repeat the command');
  addPolicyOptions(command)
    .addHelpText('after', EXAMPLES)
    .action((domid: number, options: CreateOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const { handle, mac, mtu, rate, label, linkDown, wait, requestId } = options;
        const vif = await client.vifs.create(domid, {
          handle,
          mac,
          mtu,
          rate,
          switch: options.switch,
          portPolicy: policyOf(options),
          linkDown,
          labels: label,
          waitMs: wait === false ? 0 : typeof wait === 'number' ? wait : undefined,
          requestId,
          signal: interrupt,
        });
        if (out.json) out.document(vif);
        else printVif(out, vif);
      }),
    );
}
