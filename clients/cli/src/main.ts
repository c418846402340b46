/** The entry of `xenvif`: parses, runs, and turns what went wrong into a line and an exit code. */
import { describeFailure } from './failure.js';
import { buildProgram } from './program.js';
import { wasInterrupted } from './session.js';

try {
  await buildProgram().parseAsync();
} catch (error) {
  const { exitCode, line } = describeFailure(error, wasInterrupted());
  if (line !== undefined) process.stderr.write(`${line}\n`);
  process.exitCode = exitCode;
}
