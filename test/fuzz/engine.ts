/**
 * The loop of a fuzz target: cases that failed once are run first, then new ones from a seed until
 * the time is up. A case is data, so that one that fails can be made smaller and kept as JSON.
 *
 *     XENVIF_FUZZ_SECONDS   how long each target runs; 60 unless set
 *     XENVIF_FUZZ_SEED      the seed; printed, and from the clock unless set
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type SeededRandom, seededRandom } from '../support/random.js';

const SECONDS_DEFAULT = 60;
const PROGRESS_MS = 10_000;
/** How long a failing case is made smaller. */
const SHRINK_MS = 30_000;
/** What a run needs beside its time: the regressions, and making a failure smaller. */
const OVERHEAD_MS = 120_000;
/**
 * How long the daemon may take for a step, on a machine that does other work too; less while a
 * failure is made smaller.
 */
const PATIENCE_MS = 20_000;
const PATIENCE_SHRINKING_MS = 1500;
const regressions = new URL('regressions/', import.meta.url);

/** Counts what became of things, by name. */
export type Count = (outcome: string, times?: number) => void;

export interface Target<World, Case> {
  readonly name: string;
  /** Every outcome that a run must have seen, */
  readonly outcomes: readonly string[];
  /** if it had so many cases: then none is missed by bad luck. */
  readonly casesForAll: number;
  open(): Promise<World>;
  /** Takes a world down, checking for leaks unless it is broken already. */
  close(world: World, broken: boolean): Promise<void>;
  generate(random: SeededRandom): Case;
  /** Runs a case; throws where the daemon and the model differ. */
  run(world: World, fuzzCase: Case, count: Count): Promise<void>;
  /** Smaller cases to try in place of one that fails, the smallest first. */
  smaller(fuzzCase: Case): Iterable<Case>;
}

const fuzzSeconds = Number(process.env['XENVIF_FUZZ_SECONDS'] ?? SECONDS_DEFAULT);
/** The limit for the test that a target runs in. */
export const fuzzTimeoutMs = fuzzSeconds * 1000 + OVERHEAD_MS;
let patienceMs = PATIENCE_MS;

/** Runs a target for its time. Throws what a case threw, after printing how to see it again. */
export async function fuzz<World, Case>(target: Target<World, Case>): Promise<void> {
  const seed = Number(process.env['XENVIF_FUZZ_SEED'] ?? Date.now() % 0xffff_ffff);
  const counts = new Map<string, number>();
  const count: Count = (outcome, times = 1) => {
    counts.set(outcome, (counts.get(outcome) ?? 0) + times);
  };
  const before = await runRegressions(target, count);
  print(`${target.name}: seed ${seed}, ${fuzzSeconds} s, ${before} regressions hold`);
  const random = seededRandom(seed);
  const start = performance.now();
  let world = await target.open();
  let nextProgress = start + PROGRESS_MS;
  let cases = 0;
  while (performance.now() - start < fuzzSeconds * 1000) {
    const fuzzCase = target.generate(random);
    try {
      await target.run(world, fuzzCase, count);
    } catch (error) {
      await target.close(world, true).catch(() => undefined);
      await report(target, fuzzCase, { seed, step: cases }, error);
      throw error;
    }
    cases += 1;
    if (performance.now() < nextProgress) continue;
    nextProgress += PROGRESS_MS;
    print(`${target.name}: ${cases} cases after ${seconds(start)} s`);
    // A new machine now and then: what a leak check finds is found near its cause.
    await target.close(world, false);
    world = await target.open();
  }
  await target.close(world, false);
  print(`${target.name}: seed ${seed}, ${cases} cases in ${seconds(start)} s; ${show(counts)}`);
  const missed = target.outcomes.filter((outcome) => !counts.has(outcome));
  if (missed.length > 0 && cases >= target.casesForAll) {
    throw new Error(`${target.name} never saw ${missed.join(', ')}: the generator is too tame.`);
  }
}

/** Runs the cases that are kept of this target; returns how many there are. */
async function runRegressions<World, Case>(
  target: Target<World, Case>,
  count: Count,
): Promise<number> {
  const files = readdirSync(regressions).filter((file) => file.startsWith(`${target.name}-`));
  for (const file of files) {
    const { fuzzCase } = JSON.parse(readFileSync(new URL(file, regressions), 'utf8')) as {
      fuzzCase: Case;
    };
    const failure = await failureOf(target, fuzzCase, count);
    if (failure !== undefined) {
      throw new Error(`The regression ${file} is back: ${String(failure)}`, { cause: failure });
    }
  }
  return files.length;
}

/** What a case throws on a machine of its own; undefined when all is well. */
async function failureOf<World, Case>(
  target: Target<World, Case>,
  fuzzCase: Case,
  count: Count = () => undefined,
): Promise<unknown> {
  const world = await target.open();
  try {
    await target.run(world, fuzzCase, count);
  } catch (error) {
    await target.close(world, true).catch(() => undefined);
    return error ?? new Error('It threw nothing at all.');
  }
  try {
    await target.close(world, false);
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Makes the case smaller while it fails, and writes it where regressions are kept. */
async function report<World, Case>(
  target: Target<World, Case>,
  fuzzCase: Case,
  where: { seed: number; step: number },
  error: unknown,
): Promise<void> {
  print(`${target.name}: seed ${where.seed}, step ${where.step} FAILED: ${String(error)}`);
  if ((await failureOf(target, fuzzCase)) === undefined) {
    print(`${target.name}: the case alone, on a new machine, does not fail:`);
    print(JSON.stringify(fuzzCase));
    return;
  }
  let smallest = fuzzCase;
  const end = performance.now() + SHRINK_MS;
  patienceMs = PATIENCE_SHRINKING_MS;
  for (let progress = true; progress; ) {
    progress = false;
    for (const candidate of target.smaller(smallest)) {
      if (performance.now() > end) break;
      if ((await failureOf(target, candidate)) === undefined) continue;
      smallest = candidate;
      progress = true;
      break;
    }
  }
  const file = `${target.name}-${where.seed}-${where.step}.json`;
  const text = JSON.stringify({ failure: String(error), fuzzCase: smallest }, undefined, 1);
  writeFileSync(new URL(file, regressions), `${text}\n`);
  print(`${target.name}: the smallest case that fails is in test/fuzz/regressions/${file}:`);
  print(JSON.stringify(smallest));
}

/** All ways to leave out a run of an array's elements, long runs first. */
export function* shorter<T>(list: readonly T[]): Iterable<T[]> {
  for (let length = list.length; length >= 1; length = Math.floor(length / 2)) {
    for (let start = 0; start < list.length; start += length) {
      yield [...list.slice(0, start), ...list.slice(start + length)];
    }
  }
}

/** One element of a list. */
export function pick<T>(random: SeededRandom, list: readonly T[]): T {
  return list[random.below(list.length)] as T;
}

/** True once in `times`. */
export function once(random: SeededRandom, times: number): boolean {
  return random.below(times) === 0;
}

/** Lets event handlers run until `condition` holds; fails when it does not in a few seconds. */
export async function spin(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`Not within ${patienceMs} ms: ${what}.`);
    await turn();
  }
}

/** One turn of the event loop. */
export async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

function show(counts: ReadonlyMap<string, number>): string {
  const sorted = [...counts].sort(([a], [b]) => a.localeCompare(b));
  return sorted.map(([outcome, times]) => `${outcome} ${times}`).join(', ');
}

function seconds(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(1);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
