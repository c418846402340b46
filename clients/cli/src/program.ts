/** The command line: global options and one registration for each command. */
import { Command } from 'commander';
import { registerApply } from './commands/apply.js';
import { registerCapture } from './commands/capture.js';
import { registerCreate } from './commands/create.js';
import { registerExport } from './commands/export.js';
import { registerDomains, registerHost, registerVersion } from './commands/host.js';
import { registerInject } from './commands/inject.js';
import { registerPing } from './commands/ping.js';
import { registerPort, registerTap, registerUplink } from './commands/ports.js';
import { registerSet } from './commands/set.js';
import { registerStats } from './commands/stats.js';
import { registerSwitch } from './commands/switches.js';
import { registerTraceroute } from './commands/traceroute.js';
import { registerVchan } from './commands/vchan.js';
import { registerGet, registerLs, registerRm } from './commands/vifs.js';
import { registerWatch } from './commands/watch.js';
import { VERSION } from './version.js';

const AFTER_HELP = `
A VIF is written vifs/<domid>.<handle>, or <domid>.<handle> for short; a SWITCH switches/<id> or <id>;
a PORT switches/<id>/ports/<port> or <id>/<port>.

The daemon's address is --address, else XENVIF_ADDRESS, else the first socket that exists of
/run/xenvif/xenvifd.sock, $XDG_RUNTIME_DIR/xenvif/xenvifd.sock and
<temporary directory>/xenvif-<uid>/xenvifd.sock, else 127.0.0.1:7637.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon answers, 130 interrupted.

In JSON, 64-bit numbers are numbers up to 2^53 - 1 and strings beyond.`;

/** Builds the program. `parseAsync` rejects with CommanderError, CliError or XenvifClientError. */
export function buildProgram(): Command {
  const program = new Command('xenvif')
    .description('Xen virtual network interfaces and switches of a running xenvifd.')
    .version(VERSION, '-V, --version', 'print the version of this command')
    .option('--address <address>', 'the daemon: unix:/path, /path or host:port')
    .option('--json', 'print JSON: one document, or one a line for streams')
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError('(see xenvif --help, and xenvif COMMAND --help)')
    .addHelpText('after', AFTER_HELP)
    .exitOverride();
  const registrations = [
    registerLs,
    registerGet,
    registerCreate,
    registerSet,
    registerRm,
    registerWatch,
    registerStats,
    registerCapture,
    registerInject,
    registerPing,
    registerTraceroute,
    registerSwitch,
    registerPort,
    registerTap,
    registerUplink,
    registerApply,
    registerExport,
    registerVchan,
    registerHost,
    registerDomains,
    registerVersion,
  ];
  for (const register of registrations) register(program);
  return program;
}
