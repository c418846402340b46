/** `xenvif host`, `xenvif domains` and `xenvif version`. */
import { type Domain, XenvifClientError } from '@xenvif/client';
import type { Command } from 'commander';
import { inSession } from '../session.js';
import { ageText, bytesText } from '../units.js';
import { VERSION } from '../version.js';

export function registerHost(program: Command): void {
  program
    .command('host')
    .description('show the daemon and what it runs on')
    .addHelpText('after', '\nExamples:\n  xenvif host\n  xenvif host --json')
    .action((_options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const options = { signal: interrupt };
        const [host, health] = await Promise.all([
          client.host.get(options),
          healthOf(() => client.health('', options)),
        ]);
        if (out.json) return out.document({ ...host, health, address: client.address });
        const { startTime } = host;
        out.fields([
          ['address', client.address],
          ['version', host.version],
          ['health', out.styled(health, health === 'serving' ? 'good' : 'warning')],
          ['xen', host.xenKind],
          ['domid', String(host.domid)],
          ['xenstore', host.storeConnected ? 'connected' : out.styled('not connected', 'bad')],
          ['started', startTime ? `${startTime.toISOString()} (${ageText(startTime)} ago)` : '-'],
          ['boot id', host.bootId],
          ['node', host.nodeVersion],
          ['vifs', String(host.vifs)],
          ['frame streams', String(host.frameStreams)],
          ['memory', bytesText(host.memoryBytes)],
        ]);
      }),
    );
}

/** A daemon may be asked for its host without being allowed to be asked for its health. */
async function healthOf(check: () => Promise<string>): Promise<string> {
  try {
    return await check();
  } catch (error) {
    if (error instanceof XenvifClientError && error.grpcStatus !== 'UNAVAILABLE') return 'unknown';
    throw error;
  }
}

export function registerDomains(program: Command): void {
  program
    .command('domains')
    .description('list the domains that the daemon can see')
    .addHelpText('after', '\nExamples:\n  xenvif domains\n  xenvif domains --json')
    .action((_options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const domains: Domain[] = [];
        for await (const domain of client.host.domains({ signal: interrupt })) domains.push(domain);
        if (out.json) return out.document(domains);
        const rows = domains.map(({ domid, name, vifs }) => [String(domid), name, String(vifs)]);
        out.table(['DOMID', 'NAME', 'VIFS'], rows, [0, 2]);
      }),
    );
}

export function registerVersion(program: Command): void {
  program
    .command('version')
    .description('print the versions of this command and of the daemon')
    .addHelpText('after', '\nExamples:\n  xenvif version\n  xenvif version --json')
    .action((_options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        // Without a daemon there is still a version to tell.
        const daemon = await client.host
          .get({ signal: interrupt })
          .then(({ version }) => version)
          .catch(() => undefined);
        if (out.json) return out.document({ xenvif: VERSION, xenvifd: daemon ?? null });
        out.line(`xenvif ${VERSION}`);
        out.line(`xenvifd ${daemon ?? `does not answer at ${client.address}`}`);
      }),
    );
}
