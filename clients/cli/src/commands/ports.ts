/** `xenvif port`, `xenvif tap` and `xenvif uplink`: what is plugged into switches. */
import { type Mirror, type Port, parsePortName, portName } from '@xenvif/client';
import type { Command } from 'commander';
import { CliError, usageError } from '../failure.js';
import {
  addPolicyChanges,
  addPolicyOptions,
  hasPolicyOptions,
  type PolicyOptions,
  policyOf,
} from '../policy-options.js';
import { inSession, type Session } from '../session.js';
import { printPort, printPorts } from '../switch-text.js';
import { textInto, vlanList, wholeNumber } from '../units.js';

export function registerPort(program: Command): void {
  const group = program.command('port').description('ports of switches');
  registerLs(group);
  registerShow(group);
  registerSet(group);
  registerRm(group);
}

function registerLs(group: Command): void {
  group
    .command('ls')
    .description('list the ports of a switch with what each has counted')
    .argument('[switch]', 'the switch', 'default')
    .addHelpText('after', '\nExamples:\n  xenvif port ls\n  xenvif port ls lan --json')
    .action((name: string, _options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        const ports = await client.switches.ports(name, { signal: interrupt });
        if (out.json) out.document(ports);
        else printPorts(out, ports);
      }),
    );
}

function registerShow(group: Command): void {
  group
    .command('show <port>')
    .description('show everything about a port, its drops by cause too')
    .addHelpText(
      'after',
      '\nExamples:\n  xenvif port show lan/tap0\n  xenvif port show lan/tap0 --json',
    )
    .action((name: string, _options: object, command: Command) =>
      inSession(command, async ({ client, out, interrupt }) => {
        show(out, await findPort(client, name, interrupt));
      }),
    );
}

const SET_EXAMPLES = `
What is not named stays as it is. The port of a vif is changed by xenvif set.

Examples:
  xenvif port set lan/tap0 --trunk 10,20
  xenvif port set lan/tap0 --no-policy --isolated`;

function registerSet(group: Command): void {
  addPolicyChanges(group.command('set <port>').description('change what a TAP or uplink may do'))
    .addHelpText('after', SET_EXAMPLES)
    .action((name: string, options: PolicyOptions, command: Command) =>
      inSession(command, async ({ client, out, interrupt: signal }) => {
        if (!hasPolicyOptions(options)) {
          throw usageError('Nothing to change: see xenvif port set --help.');
        }
        const current = await findPort(client, name, signal);
        const policy = policyOf(options, current.policy) ?? {};
        show(out, await client.switches.updatePort(current.name, policy, { signal }));
      }),
    );
}

function registerRm(group: Command): void {
  group
    .command('rm <port...>')
    .description('pull out TAPs and uplinks')
    .option('--allow-missing', 'no error for a port that does not exist')
    .addHelpText('after', '\nExamples:\n  xenvif port rm lan/tap0\n  xenvif port rm lan/a lan/b')
    .action((names: string[], options: { allowMissing?: boolean }, command: Command) =>
      inSession(command, async ({ client, out, interrupt: signal }) => {
        // A name that is none must not leave half of the others removed.
        const deleted = names.map(portName);
        for (const name of deleted) {
          await client.switches.deletePort(name, { allowMissing: options.allowMissing, signal });
          if (!out.json) out.line(name);
        }
        if (out.json) out.document({ deleted });
      }),
    );
}

interface PortOptions extends PolicyOptions {
  readonly portId?: string;
  readonly mirrorSource?: readonly string[];
  readonly mirrorDestination?: readonly string[];
  readonly mirrorVlan?: readonly number[];
}

interface TapOptions extends PortOptions {
  readonly interface?: string;
  readonly mtu?: number;
  readonly persist?: boolean;
  readonly owner?: number;
}

const OF_PORTS = `
What is plugged in is a port: xenvif port ls lists it, port set changes it, port rm pulls it out.`;

const TAP_EXAMPLES = `
The interface is one of the daemon's machine. With --mirror-* it hears copies of other ports' frames
(in: what comes into the switch there, out: what goes out of it) and sends nothing into the switch.

Examples:
  xenvif tap create lan --interface lan0
  xenvif tap create lan --interface vm0 --owner "$(id -u)" --persist --vlan 10
  xenvif tap create lan --interface mon0 --mirror-source vif-1.0 --mirror-destination vif-1.0`;

export function registerTap(program: Command): void {
  const group = program
    .command('tap')
    .description('TAP interfaces as ports of switches')
    .addHelpText('after', OF_PORTS);
  const command = group
    .command('create <switch>')
    .description("plug a TAP interface of the daemon's kernel into a switch")
    .option('--interface <name>', 'the name of the interface (default: the kernel chooses)')
    .option('--mtu <bytes>', 'largest Ethernet payload (default 1500)', wholeNumber(68, 65521))
    .option('--persist', 'keep the interface when the port goes and when the daemon ends')
    .option(
      '--owner <uid>',
      'the user who may take it up (default: root)',
      wholeNumber(0, 2 ** 32),
    );
  addPortOptions(command)
    .addHelpText('after', TAP_EXAMPLES)
    .action((name: string, options: TapOptions, self: Command) =>
      inSession(self, async (session) => {
        const { interface: device, mtu, persist, owner } = options;
        const tap = { interface: device, mtu, persist, owner, ...portOf(session, options) };
        show(session.out, await session.client.switches.createTap(name, tap));
      }),
    );
}

const UPLINK_EXAMPLES = `
The interface is one that the daemon's own domain has from another domain's backend: HANDLE is its number
below device/vif in XenStore.

Examples:
  xenvif uplink create lan 0
  xenvif uplink create lan 0 --trunk 10,20 --native-vlan 1`;

export function registerUplink(program: Command): void {
  const group = program
    .command('uplink')
    .description("the domain's own interfaces as ports")
    .addHelpText('after', OF_PORTS);
  const command = group
    .command('create <switch>')
    .description("plug an interface of the daemon's own domain into a switch")
    .argument('<handle>', 'which interface', wholeNumber(0, 65535));
  addPortOptions(command)
    .addHelpText('after', UPLINK_EXAMPLES)
    .action((name: string, handle: number, options: PortOptions, self: Command) =>
      inSession(self, async (session) => {
        const port = portOf(session, options);
        show(session.out, await session.client.switches.createUplink(name, handle, port));
      }),
    );
}

/** The options of every port that is made. */
function addPortOptions(command: Command): Command {
  const named = command
    .option('--port-id <id>', "the port's name (default: that of the interface)")
    .option('--mirror-source <port>', 'hear what comes in at this port (repeatable)', textInto)
    .option('--mirror-destination <port>', 'hear what goes out at this port (repeatable)', textInto)
    .option('--mirror-vlan <ids>', 'hear what passes in these VLANs', vlanList);
  return addPolicyOptions(named);
}

function portOf({ interrupt }: Session, options: PortOptions) {
  return {
    portId: options.portId,
    policy: policyOf(options),
    mirror: mirrorOf(options),
    signal: interrupt,
  };
}

function mirrorOf({
  mirrorSource: sources = [],
  mirrorDestination: destinations = [],
  mirrorVlan: vlans = [],
}: PortOptions): Mirror | undefined {
  if (sources.length + destinations.length + vlans.length === 0) return undefined;
  return { sources, destinations, vlans };
}

function show(out: Session['out'], port: Port): void {
  if (out.json) out.document(port);
  else printPort(out, port);
}

async function findPort(
  client: Session['client'],
  name: string,
  signal: AbortSignal,
): Promise<Port> {
  const full = portName(name);
  const ports = await client.switches.ports(parsePortName(full).switch, { signal });
  const found = ports.find((port) => port.name === full);
  if (found !== undefined) return found;
  throw new CliError('PORT_NOT_FOUND', `There is no port ${full}.`);
}
