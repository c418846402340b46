/** `xenvif export`: the present state as a file that `xenvif apply` takes. */
import type { Command } from 'commander';
import { stringify } from 'yaml';
import { stateDocument } from '../declared/emit.js';
import { readPresentState } from '../declared/present.js';
import { inSession } from '../session.js';

const EXAMPLES = `
Writes YAML, and JSON with --json; xenvif apply takes both. Of a TAP, who owns it and whether it stays is
not told by the daemon: write persist and owner by hand.

Examples:
  xenvif export > host.yaml
  xenvif export --name web --json`;

export function registerExport(program: Command): void {
  program
    .command('export')
    .description('write switches, ports and vifs as a file for xenvif apply')
    .option('--name <name>', 'only what xenvif apply made of the file of this name')
    .addHelpText('after', EXAMPLES)
    .action((options: { name?: string }, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const present = await readPresentState(client, interrupt);
        const document = stateDocument(present, options.name);
        if (out.json) out.document(document);
        else out.raw(stringify(document));
      }),
    );
}
