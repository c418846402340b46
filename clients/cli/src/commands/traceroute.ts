/** `xenvif traceroute`: which routers are on the way to a host, seen from a port of a switch. */
import type { Stack, TracerouteProbe } from '@xenvif/client/stack';
import type { Command } from 'commander';
import { CliError } from '../failure.js';
import type { Output } from '../output.js';
import { inSession, type Session } from '../session.js';
import {
  addSwitchHostOptions,
  asSwitchHost,
  SWITCH_HOST_HELP,
  type SwitchHostOptions,
} from '../switch-host.js';
import { durationMs, wholeNumber } from '../units.js';

interface TracerouteCommandOptions extends SwitchHostOptions {
  readonly hops: number;
  readonly probes: number;
  readonly timeout: number;
}

const HELP = `${SWITCH_HOST_HELP}
Sends echo requests (ICMP) that live for one hop, for two, and so on, and prints who answers each. The
exit code is 1 unless the host was reached.

Examples:
  xenvif traceroute 192.0.2.1 --via lan
  xenvif traceroute 192.0.2.1 --via lan --from 10.0.0.99/24 --gateway 10.0.0.254 --probes 1`;

export function registerTraceroute(program: Command): void {
  const command = program
    .command('traceroute <host>')
    .description('list the routers between a switch and a host');
  addSwitchHostOptions(command)
    .option('-m, --hops <count>', 'the most hops that are looked at', wholeNumber(1, 255), 30)
    .option('-q, --probes <count>', 'requests for each hop', wholeNumber(1, 10), 3)
    .option('-W, --timeout <duration>', 'how long each is waited for', durationMs, 1_000)
    .addHelpText('after', HELP)
    .action((host: string, options: TracerouteCommandOptions, self: Command) =>
      inSession(self, (session) =>
        asSwitchHost(session, options, (stack) => trace(session, stack, host, options)),
      ),
    );
}

async function trace(
  { out, interrupt }: Session,
  stack: Stack,
  host: string,
  options: TracerouteCommandOptions,
): Promise<void> {
  const { hops: hopsMax, probes, timeout: timeoutMs } = options;
  let isReached = false;
  let line: TracerouteProbe[] = [];
  for await (const probe of stack.traceroute(host, {
    ...{ hopsMax, probes, timeoutMs, signal: interrupt },
  })) {
    if (probe.outcome === 'reached') isReached = true;
    if (out.json) {
      out.jsonLine(probe);
      continue;
    }
    line.push(probe);
    if (probe.probe < probes) continue;
    out.line(hopText(out, line));
    line = [];
  }
  if (!isReached) throw new CliError('HOST_SILENT', `${host} was not reached.`);
}

/** One hop: who answered, once for each that did, and how long each took. */
function hopText(out: Output, probes: readonly TracerouteProbe[]): string {
  const parts: string[] = [];
  let last: string | undefined;
  for (const { from, outcome, roundTripMs } of probes) {
    if (from === undefined) {
      parts.push(out.styled(outcome === 'unreachable' ? 'no way' : 'no answer', 'warning'));
      continue;
    }
    if (from !== last) parts.push(from);
    last = from;
    const time = `${roundTripMs?.toFixed(2)} ms`;
    parts.push(outcome === 'unreachable' ? out.styled(`${time} unreachable`, 'bad') : time);
  }
  return `${String(probes[0]?.hop).padStart(2)}  ${parts.join('  ')}`;
}
