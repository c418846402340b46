/** What every command gets: the client, where to print, and the signal that Ctrl-C gives. */
import { XenvifClient } from '@xenvif/client';
import type { Command } from 'commander';
import { ExitCode } from './failure.js';
import { Output } from './output.js';

export interface Session {
  readonly client: XenvifClient;
  readonly out: Output;
  /** Notes beside the output: counters, warnings, summaries. */
  readonly notes: Output;
  /** Aborted by Ctrl-C, SIGTERM, or when whoever read our output has gone. */
  readonly interrupt: AbortSignal;
}

/** Options that every command takes. */
interface GlobalOptions {
  readonly address?: string;
  readonly json?: boolean;
}

const interrupt = new AbortController();

/** Whether the command was asked to end. */
export function wasInterrupted(): boolean {
  return interrupt.signal.aborted;
}

function onOutputError(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
  interrupt.abort();
}

/** Runs the body of a command in a session of its own. */
export async function inSession(
  command: Command,
  body: (session: Session) => Promise<void>,
): Promise<void> {
  const { address, json = false } = command.optsWithGlobals<GlobalOptions>();
  const client = new XenvifClient({ address });
  const out = new Output(process.stdout, json);
  const notes = new Output(process.stderr, false);
  const onSignal = (): void => {
    // The first asks politely; whoever insists gets their prompt back.
    if (interrupt.signal.aborted) process.exit(ExitCode.interrupted);
    interrupt.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  // It stays: what is written last may fail when the command is done.
  if (process.stdout.listenerCount('error', onOutputError) === 0) {
    process.stdout.on('error', onOutputError);
  }
  try {
    await body({ client, out, notes, interrupt: interrupt.signal });
  } finally {
    client.close();
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
