/**
 * The sizes, offsets and constants in xen-headers.json are those of Xen's own C headers: a small C
 * program prints them, and the compiler, not a person, has counted the bytes.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const source = join(import.meta.dirname, 'xen-headers.c');
const golden = join(import.meta.dirname, 'xen-headers.json');

/** Compiles and runs the C program; what fails is said so that a person knows what to install. */
function printedByC(): string {
  const directory = mkdtempSync(join(tmpdir(), 'xenvif-golden-'));
  try {
    const program = join(directory, 'xen-headers');
    try {
      execFileSync('gcc', ['-Wall', '-Wextra', '-Werror', '-o', program, source], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    } catch (error) {
      const stderr = (error as { stderr?: string }).stderr ?? '';
      const advice = (error as { code?: string }).code === 'ENOENT' ? 'gcc is not installed' : '';
      throw new Error(
        `The golden program could not be compiled; it needs the Debian packages gcc and ` +
          `libxen-dev. ${advice}${stderr}`,
      );
    }
    return execFileSync(program, { encoding: 'utf8' });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

test('the committed layouts and constants are what the compiler finds in the Xen headers', () => {
  expect(JSON.parse(readFileSync(golden, 'utf8'))).toEqual(JSON.parse(printedByC()));
});
