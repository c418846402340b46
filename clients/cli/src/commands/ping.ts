/** `xenvif ping`: asks a host on a guest's network, from a NIC of one's own and without privileges. */
import type { PingResult, Stack } from '@xenvif/client/stack';
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

interface PingCommandOptions extends SwitchHostOptions {
  readonly count?: number;
  readonly interval: number;
  readonly timeout: number;
  readonly size: number;
}

/** What a packet has room for. */
const BYTES_MAX = 65_507;

const HELP = `${SWITCH_HOST_HELP}
Sends echo requests (ICMP). The exit code is 1 unless something answered.

Examples:
  xenvif ping 10.0.0.1 --via default --from 10.0.0.99/24
  xenvif ping 10.0.0.1 --via lan --count 3 --size 20000
  xenvif ping 192.0.2.1 --via lan --from 10.0.0.99/24 --gateway 10.0.0.254`;

export function registerPing(program: Command): void {
  const command = program
    .command('ping <host>')
    .description('ask a host on a switch whether it is there');
  addSwitchHostOptions(command)
    .option('-c, --count <count>', 'how many; without it, until Ctrl-C', wholeNumber(1, 1e9))
    .option('-i, --interval <duration>', 'from one to the next', durationMs, 1_000)
    .option('-W, --timeout <duration>', 'how long each is waited for', durationMs, 1_000)
    .option('-s, --size <bytes>', 'bytes of data', wholeNumber(0, BYTES_MAX), 56)
    .addHelpText('after', HELP)
    .action((host: string, options: PingCommandOptions, self: Command) =>
      inSession(self, (session) =>
        asSwitchHost(session, options, (stack) => ping(session, stack, host, options)),
      ),
    );
}

async function ping(
  { out, interrupt }: Session,
  stack: Stack,
  host: string,
  options: PingCommandOptions,
): Promise<void> {
  const { count, interval: intervalMs, timeout: timeoutMs, size: bytes } = options;
  const round = { count, intervalMs, timeoutMs, bytes, signal: interrupt };
  let [sent, answered] = [0, 0];
  try {
    for await (const result of stack.ping(host, round)) {
      sent += 1;
      if (result.outcome === 'reply') answered += 1;
      if (out.json) out.jsonLine(result);
      else out.line(resultText(out, host, result));
    }
  } catch (error) {
    // Ctrl-C is how most pings end.
    if (!interrupt.aborted) throw error;
  }
  if (!out.json) out.line(`${sent} sent, ${answered} answered`);
  if (answered === 0) throw new CliError('HOST_SILENT', `${host} did not answer.`);
}

function resultText(out: Output, host: string, result: PingResult): string {
  const { outcome, sequence, from, bytes, ttl, roundTripMs, icmpType, icmpCode } = result;
  switch (outcome) {
    case 'reply':
      return `${bytes} bytes from ${from}: seq ${sequence}  ttl ${ttl}  ${roundTripMs?.toFixed(2)} ms`;
    case 'damaged':
      return out.styled(`seq ${sequence}: ${from} answered with other data`, 'bad');
    case 'error':
      return out.styled(`seq ${sequence}: ${from} says ${errorText(icmpType, icmpCode)}`, 'bad');
    case 'unsent':
      return out.styled(`seq ${sequence}: no way to ${host}`, 'bad');
    case 'timeout':
      return out.styled(`seq ${sequence}: no answer`, 'warning');
  }
}

function errorText(type: number | undefined, code: number | undefined): string {
  if (type === 3) return `unreachable (code ${code})`;
  return type === 11 ? 'the time to live is over' : `ICMP type ${type}, code ${code}`;
}
