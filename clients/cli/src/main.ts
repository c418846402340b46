/** The entry of `xenvif`: parses, runs, and turns what went wrong into a line and an exit code. */
import { expectYoungGarbage } from '@xenvif/client';
import { describeFailure } from './failure.js';
import { buildProgram } from './program.js';
import { wasInterrupted } from './session.js';

// Who reads only the first lines of --help has seen enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  // A command that runs ends in its own order.
  if (process.stdout.listenerCount('error') === 1) process.exit();
});

expectYoungGarbage();
try {
  await buildProgram().parseAsync();
} catch (error) {
  const { exitCode, line } = describeFailure(error, wasInterrupted());
  if (line !== undefined) process.stderr.write(`${line}\n`);
  process.exitCode = exitCode;
}
