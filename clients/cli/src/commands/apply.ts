/** `xenvif apply`: has switches, ports and vifs be as a file declares them. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { text as textOf } from 'node:stream/consumers';
import type { Command } from 'commander';
import { carryOut, type Outcome } from '../declared/carry-out.js';
import { makePlan, type Plan } from '../declared/plan.js';
import { PlanText } from '../declared/plan-text.js';
import { readPresentState } from '../declared/present.js';
import { Progress } from '../declared/progress.js';
import { readDeclaredState } from '../declared/state.js';
import { CliError, describeFailure, ExitCode } from '../failure.js';
import { inSession, type Session } from '../session.js';
import { durationMs } from '../units.js';

interface ApplyOptions {
  readonly file: string;
  readonly dryRun?: boolean;
  readonly yes?: boolean;
  readonly prune?: boolean;
  readonly replace?: boolean;
  readonly allowMissing?: boolean;
  readonly wait?: number;
}

/** So many failures are told one by one. */
const FAILURES_SHOWN = 10;

const EXAMPLES = `
Shows what would change, asks where somebody sits at a terminal, and changes it. Run again, it changes
nothing. What the file does not name stays, but for what an earlier apply of a file of the same name made:
--prune removes that. See the form in the manual, or what xenvif export writes.

Examples:
  xenvif apply -f host.yaml --dry-run
  xenvif apply -f host.yaml --prune --yes
  xenvif export | ssh other xenvif apply -f - --yes`;

export function registerApply(program: Command): void {
  program
    .command('apply')
    .description('have switches, ports and vifs be as a file declares them')
    .requiredOption('-f, --file <file>', 'YAML or JSON; - for standard input')
    .option('--dry-run', 'show what would change, and change nothing')
    .option('--yes', 'do not ask')
    .option('--prune', 'remove what an earlier apply made and the file no longer names')
    .option('--replace', 'remove and make again what cannot be changed')
    .option('--allow-missing', 'pass over vifs of guests that are not there')
    .option(
      '--wait <duration>',
      'how long each new vif may take to connect (default 0s)',
      durationMs,
    )
    .addHelpText('after', EXAMPLES)
    .action((options: ApplyOptions, command: Command) =>
      inSession(command, (session) => apply(session, options)),
    );
}

async function apply(session: Session, options: ApplyOptions): Promise<void> {
  const { client, interrupt, notes, out } = session;
  const declared = readDeclaredState(...(await readFile(options.file)));
  const present = await readPresentState(client, interrupt);
  const plan = makePlan(declared, present, {
    prune: options.prune ?? false,
    replace: options.replace ?? false,
    allowMissing: options.allowMissing ?? false,
  });
  const text = new PlanText(out, plan);
  if (!out.json) text.print();
  if (plan.conflicts.length > 0) {
    throw new CliError('PLAN_IMPOSSIBLE', `Nothing was changed.\n  ${plan.conflicts.join('\n  ')}`);
  }
  if (options.dryRun || plan.steps.length === 0) {
    if (out.json) out.document(text.document(0));
    return;
  }
  if (!options.yes && !(await isConfirmed(session))) {
    throw new CliError('NOT_CONFIRMED', 'Nothing was changed.');
  }
  const progress = new Progress(notes, plan.steps.length);
  const outcome = await carryOut(plan, {
    client,
    signal: interrupt,
    waitMs: options.wait ?? 0,
    onDone: (done) => progress.show(done),
  });
  progress.end();
  if (out.json) out.document(text.document(outcome.done));
  else out.line(`Done: ${outcome.done} of ${plan.steps.length}.`);
  checkOutcome(plan, outcome, interrupt.aborted);
}

/** The name for people, and the text. @throws CliError FILE_UNREADABLE. */
async function readFile(path: string): Promise<[string, string]> {
  if (path === '-') return ['stdin', await textOf(process.stdin)];
  try {
    return [path, readFileSync(path, 'utf8')];
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CliError('FILE_UNREADABLE', `Cannot read ${path}: ${reason}`);
  }
}

/** Asks where there is somebody to ask; elsewhere the command line has said it all. */
async function isConfirmed({ interrupt, out }: Session): Promise<boolean> {
  if (out.json || !out.isTerminal || !process.stdin.isTTY) return true;
  const questions = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const answer = await questions.question('Change this? [y/N] ', { signal: interrupt });
    return /^y(?:es)?$/i.test(answer.trim());
  } catch {
    return false;
  } finally {
    questions.close();
  }
}

/** @throws CliError APPLY_INCOMPLETE, APPLY_INTERRUPTED. */
function checkOutcome(plan: Plan, { done, failures }: Outcome, isInterrupted: boolean): void {
  const total = plan.steps.length;
  const again = 'Run it again to go on from there.';
  if (isInterrupted) {
    const text = `Interrupted: ${done} of ${total} done. ${again}`;
    throw new CliError('APPLY_INTERRUPTED', text, ExitCode.interrupted);
  }
  if (failures.length === 0) return;
  const lines = failures.slice(0, FAILURES_SHOWN).map(({ step, error }) => {
    const line = describeFailure(error, false).line?.replace(/^xenvif: /, '');
    return `  ${step.action} ${step.kind} ${step.name}: ${line}`;
  });
  const more = failures.length - lines.length;
  if (more > 0) lines.push(`  and ${more} more`);
  const head = `${done} of ${total} done, ${failures.length} failed. ${again}`;
  throw new CliError('APPLY_INCOMPLETE', [head, ...lines].join('\n'));
}
