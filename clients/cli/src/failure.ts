/** How the command fails: one line on stderr, and an exit code that scripts can tell apart. */
import { XenvifClientError } from '@xenvif/client';
import { StackError } from '@xenvif/client/stack';
import { CommanderError } from 'commander';

/** The exit codes of `xenvif`. */
export const ExitCode = {
  ok: 0,
  /** The daemon refused, or what was asked could not be done. */
  failed: 1,
  /** The command line makes no sense. */
  usage: 2,
  /** No daemon answers. */
  unreachable: 3,
  /** Ended by Ctrl-C before anything was done: 128 + SIGINT. */
  interrupted: 130,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** A failure found by the command itself. */
export class CliError extends Error {
  override readonly name = 'CliError';
  /** A stable UPPER_SNAKE word, as the daemon's. */
  readonly code: string;
  readonly exitCode: ExitCode;

  constructor(code: string, message: string, exitCode: ExitCode = ExitCode.failed) {
    super(message);
    this.code = code;
    this.exitCode = exitCode;
  }
}

/** What the command line says makes no sense. */
export function usageError(message: string): CliError {
  return new CliError('USAGE', message, ExitCode.usage);
}

/** The exit code for `error`, and the line for stderr where one is due. */
export function describeFailure(
  error: unknown,
  interrupted: boolean,
): { readonly exitCode: ExitCode; readonly line?: string } {
  // Commander has already printed its message, or the help that was asked for.
  if (error instanceof CommanderError) {
    return { exitCode: error.exitCode === 0 ? ExitCode.ok : ExitCode.usage };
  }
  if (error instanceof CliError) return { exitCode: error.exitCode, line: failureLine(error) };
  if (error instanceof XenvifClientError) {
    if (interrupted && error.code === 'CANCELLED') return { exitCode: ExitCode.interrupted };
    const fields = error.fieldViolations
      .filter(({ description }) => description !== error.message)
      .map(({ field, description }) => `\n  ${field}: ${description}`);
    return { exitCode: exitCodeOf(error), line: failureLine(error) + fields.join('') };
  }
  if (error instanceof StackError) {
    if (interrupted && error.code === 'ABORT_ERR') return { exitCode: ExitCode.interrupted };
    const isUsage = STACK_USAGE_CODES.has(error.code);
    return { exitCode: isUsage ? ExitCode.usage : ExitCode.failed, line: failureLine(error) };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { exitCode: ExitCode.failed, line: `xenvif: ${message}` };
}

function failureLine(error: { readonly message: string; readonly code: string }): string {
  return `xenvif: ${error.message} (${error.code})`;
}

const LOCAL_USAGE_CODES: ReadonlySet<string> = new Set([
  'ADDRESS_INVALID',
  'VIF_NAME_INVALID',
  'SWITCH_NAME_INVALID',
  'PORT_NAME_INVALID',
  'PORT_NOT_ALONE',
]);

const STACK_USAGE_CODES: ReadonlySet<string> = new Set(['ADDRESS_INVALID', 'CIDR_INVALID']);

function exitCodeOf(error: XenvifClientError): ExitCode {
  if (error.code === 'DAEMON_UNREACHABLE') return ExitCode.unreachable;
  if (!error.fromDaemon && LOCAL_USAGE_CODES.has(error.code)) return ExitCode.usage;
  return ExitCode.failed;
}
