/** `xenvif switch`: ls, show, create, rm, table. */
import { type ForwardingEntry, type Switch, switchName } from '@xenvif/client';
import type { Command } from 'commander';
import { inSession } from '../session.js';
import { modeText, printSwitch } from '../switch-text.js';
import { ageText, durationMs, labelInto, labelsText, shortName, wholeNumber } from '../units.js';

export function registerSwitch(program: Command): void {
  const group = program.command('switch').description('software switches');
  registerLs(group);
  registerShow(group);
  registerCreate(group);
  registerRm(group);
  registerTable(group);
}

function registerLs(group: Command): void {
  group
    .command('ls')
    .description('list switches')
    .option('--label <key=value>', 'only switches with this label (repeatable)', labelInto)
    .addHelpText('after', '\nExamples:\n  xenvif switch ls\n  xenvif switch ls --json')
    .action((options: { label?: Record<string, string> }, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const switches: Switch[] = [];
        const filter = { labels: options.label, signal: interrupt };
        for await (const found of client.switches.list(filter)) switches.push(found);
        if (out.json) return out.document(switches);
        const rows = switches.map((found) => [
          found.id,
          modeText(found),
          String(found.status.ports.length),
          String(found.status.forwardingEntries),
          labelsText(found.labels),
        ]);
        out.table(['SWITCH', 'MODE', 'PORTS', 'ENTRIES', 'LABELS'], rows, [2, 3]);
      }),
    );
}

function registerShow(group: Command): void {
  group
    .command('show')
    .description('show everything about a switch, and its ports')
    .argument('[switch]', 'the switch', 'default')
    .addHelpText('after', '\nExamples:\n  xenvif switch show\n  xenvif switch show lan --json')
    .action((name: string, _options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt: signal }) => {
        const found = await client.switches.get(name, { signal });
        const ports = await client.switches.ports(name, { signal });
        if (out.json) out.document({ ...found, ports });
        else printSwitch(out, found, ports);
      }),
    );
}

interface CreateOptions {
  readonly ageing?: number;
  readonly entriesPerPort?: number;
  readonly hub?: boolean;
  readonly label?: Record<string, string>;
  readonly requestId?: string;
}

const CREATE_EXAMPLES = `
Examples:
  xenvif switch create lan
  xenvif switch create lab --hub --label owner=me
  xenvif switch create lan --ageing 60s --entries-per-port 64`;

function registerCreate(group: Command): void {
  group
    .command('create <switch>')
    .description('make a switch')
    .option('--ageing <duration>', 'forget addresses unused so long (default 300s)', durationMs)
    .option('--entries-per-port <n>', 'addresses a port may hold', wholeNumber(1, 2 ** 32 - 1))
    .option('--hub', 'send every frame to every port and learn nothing')
    .option('--label <key=value>', 'a label (repeatable)', labelInto)
    .option('--request-id <id>', 'makes it safe to repeat the command')
    .addHelpText('after', CREATE_EXAMPLES)
    .action((name: string, options: CreateOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const { ageing, entriesPerPort, hub, label, requestId } = options;
        const made = await client.switches.create(name, {
          ageingSeconds: ageing === undefined ? undefined : Math.max(1, Math.round(ageing / 1_000)),
          entriesPerPort,
          hub,
          labels: label,
          requestId,
          signal: interrupt,
        });
        if (out.json) out.document(made);
        else printSwitch(out, made);
      }),
    );
}

function registerRm(group: Command): void {
  group
    .command('rm <switch...>')
    .description('remove switches that nothing is plugged into')
    .option('--allow-missing', 'no error for a switch that does not exist')
    .addHelpText('after', '\nExamples:\n  xenvif switch rm lan\n  xenvif switch rm lan lab')
    .action((names: string[], options: { allowMissing?: boolean }, command: Command) =>
      inSession(command, async ({ client, out, interrupt: signal }) => {
        // A name that is none must not leave half of the others removed.
        const deleted = names.map(switchName);
        for (const name of deleted) {
          await client.switches.delete(name, { allowMissing: options.allowMissing, signal });
          if (!out.json) out.line(name);
        }
        if (out.json) out.document({ deleted });
      }),
    );
}

function registerTable(group: Command): void {
  group
    .command('table')
    .description('show which address a switch has learnt behind which port')
    .argument('[switch]', 'the switch', 'default')
    .addHelpText('after', '\nExamples:\n  xenvif switch table\n  xenvif switch table lan --json')
    .action((name: string, _options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt: signal }) => {
        const entries: ForwardingEntry[] = [];
        for await (const entry of client.switches.forwardingEntries(name, { signal })) {
          entries.push(entry);
        }
        if (out.json) return out.document(entries);
        const rows = entries.map(({ mac, vlan, port, lastSeen }) => [
          mac,
          vlan === 0 ? '-' : String(vlan),
          shortName(port),
          ageText(lastSeen),
        ]);
        out.table(['MAC', 'VLAN', 'PORT', 'SEEN'], rows, [1, 3]);
      }),
    );
}
