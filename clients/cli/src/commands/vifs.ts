/** `xenvif ls`, `xenvif get` and `xenvif rm`. */
import { type Vif, vifName } from '@xenvif/client';
import type { Command } from 'commander';
import { inSession } from '../session.js';
import { ageText, durationMs, labelInto, labelsText, shortName, wholeNumber } from '../units.js';
import { phaseText, printVif } from '../vif-text.js';

interface LsOptions {
  readonly domid?: number;
  readonly label?: Record<string, string>;
}

export function registerLs(program: Command): void {
  program
    .command('ls')
    .description('list vifs')
    .option('--domid <domid>', 'only vifs of this guest', wholeNumber(0, 0x7fff))
    .option('--label <key=value>', 'only vifs with this label (repeatable)', labelInto)
    .addHelpText('after', '\nExamples:\n  xenvif ls\n  xenvif ls --domid 3 --json')
    .action((options: LsOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const vifs: Vif[] = [];
        const filter = { domid: options.domid, labels: options.label, signal: interrupt };
        for await (const vif of client.vifs.list(filter)) vifs.push(vif);
        if (out.json) return out.document(vifs);
        const rows = vifs.map(({ name, spec, status, labels }) => [
          name,
          spec.mac,
          String(spec.mtu),
          phaseText(out, status.phase) + (spec.linkDown ? ', link down' : ''),
          ageText(status.since),
          String(status.queues),
          shortName(spec.switch) || 'default',
          labelsText(labels),
        ]);
        const head = ['VIF', 'MAC', 'MTU', 'PHASE', 'SINCE', 'QUEUES', 'SWITCH', 'LABELS'];
        out.table(head, rows, [2, 4, 5]);
      }),
    );
}

export function registerGet(program: Command): void {
  program
    .command('get <vif>')
    .description('show everything about a vif')
    .addHelpText('after', '\nExamples:\n  xenvif get 1.0\n  xenvif get vifs/1.0 --json')
    .action((name: string, _options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const vif = await client.vifs.get(name, { signal: interrupt });
        if (out.json) out.document(vif);
        else printVif(out, vif);
      }),
    );
}

interface RmOptions {
  readonly allowMissing?: boolean;
  readonly timeout?: number;
}

export function registerRm(program: Command): void {
  program
    .command('rm <vif...>')
    .description('unplug vifs')
    .option('--allow-missing', 'no error for a vif that does not exist')
    .option(
      '--timeout <duration>',
      'how long the guest may take to close (default 10s)',
      durationMs,
    )
    .addHelpText('after', '\nExamples:\n  xenvif rm 1.0\n  xenvif rm 1.0 2.0 --timeout 2s')
    .action((names: string[], options: RmOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        // A name that is none must not leave half of the others removed.
        const vifs = names.map(vifName);
        const deleted: string[] = [];
        for (const name of vifs) {
          await client.vifs.delete(name, {
            allowMissing: options.allowMissing,
            closeTimeoutMs: options.timeout,
            signal: interrupt,
          });
          deleted.push(name);
          if (!out.json) out.line(name);
        }
        if (out.json) out.document({ deleted });
      }),
    );
}
