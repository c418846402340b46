import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const LAST_CASE = 58;
const here = new URL('.', import.meta.url);

/** The names of all tests of a case, as the sources have them; `…` for what is put in. */
function namesInTests(): string[] {
  const names = new Set<string>();
  for (const file of readdirSync(here)) {
    if (!file.endsWith('.test.ts') || file === 'readme.test.ts') continue;
    const source = readFileSync(new URL(file, here), 'utf8');
    for (const [, , name] of source.matchAll(/(['`])(case \d+: .*?)\1/g)) {
      names.add((name ?? '').replaceAll(/\$\{.*?\}/g, '…'));
    }
  }
  return [...names].sort();
}

/** The rows of the table: number, outcome and name. */
function rows(): { number: number; outcome: string; name: string }[] {
  const text = readFileSync(new URL('README.md', here), 'utf8');
  return [...text.matchAll(/^\| (\d+) \| (.+?) \| (.+?) \|$/gm)].map((row) => ({
    number: Number(row[1]),
    outcome: row[2] ?? '',
    name: row[3] ?? '',
  }));
}

test('the table of README.md and the tests name the same cases', () => {
  const table = rows();
  expect(table.map(({ name }) => name).sort()).toEqual(namesInTests());
  for (const { number, name } of table) expect(name).toMatch(new RegExp(`^case ${number}: `));
});

test(`each case from 1 to ${LAST_CASE} has a test`, () => {
  const numbers = new Set(rows().map(({ number }) => number));
  const all = Array.from({ length: LAST_CASE }, (_, index) => index + 1);
  expect([...numbers].sort((a, b) => a - b)).toEqual(all);
});
