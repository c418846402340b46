/** `xenvif watch`. */
import type { WatchEvent } from '@xenvif/client';
import type { Command } from 'commander';
import type { Output } from '../output.js';
import { inSession } from '../session.js';
import { labelInto, wholeNumber } from '../units.js';
import { phaseText } from '../vif-text.js';

interface WatchOptions {
  readonly domid?: number;
  readonly label?: Record<string, string>;
}

const EXAMPLES = `
Prints every vif as it is, a line "synced", and then each change until Ctrl-C.

Examples:
  xenvif watch
  xenvif watch --domid 3 --json | jq .vif.status.phase`;

export function registerWatch(program: Command): void {
  program
    .command('watch')
    .description('show vifs as they change')
    .option('--domid <domid>', 'only vifs of this guest', wholeNumber(0, 0x7fff))
    .option('--label <key=value>', 'only vifs with this label (repeatable)', labelInto)
    .addHelpText('after', EXAMPLES)
    .action((options: WatchOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const watch = client.vifs.watch({ domid: options.domid, labels: options.label });
        interrupt.addEventListener('abort', () => watch.close(), { once: true });
        for await (const event of watch) {
          if (out.json) out.jsonLine({ time: new Date(), ...event });
          else out.line(eventText(out, event));
        }
      }),
    );
}

function eventText(out: Output, event: WatchEvent): string {
  const time = out.styled(new Date().toISOString(), 'faint');
  if (event.type !== 'updated' && event.type !== 'deleted') return `${time}  ${event.type}`;
  const { name, spec, status } = event.vif;
  const what = event.type === 'deleted' ? out.styled('deleted', 'bad') : 'updated';
  const phase = phaseText(out, status.phase);
  return `${time}  ${what}  ${name}  ${spec.mac}  ${phase}  ${status.reason}`;
}
