import { beforeEach, expect, test } from 'vitest';
import { Turns } from '../../../../src/device/netback/turns.js';

let nowMs: number;
let rounds: (() => void)[];
let turns: Turns;
let taken: string[];

beforeEach(() => {
  nowMs = 1000;
  rounds = [];
  taken = [];
  turns = new Turns({
    nowMs: () => nowMs,
    nextRound: (callback) => {
      rounds.push(callback);
    },
  });
});

/** A turn that takes so long. */
function turn(name: string, lastsMs = 0): () => void {
  return () => {
    taken.push(name);
    nowMs += lastsMs;
  };
}

/** A round of the event loop; returns what was done in it. */
function round(): string[] {
  taken = [];
  for (const callback of rounds.splice(0)) callback();
  return taken;
}

test('a turn begins at once while there is time, and asks for one round only', () => {
  turns.take(turn('a', 0.4));
  turns.take(turn('b', 0.4));
  expect(taken).toEqual(['a', 'b']);
  expect(rounds).toHaveLength(1);
  expect(round()).toEqual([]);
  expect(rounds).toEqual([]);
});

test('what the slice has no time for waits its turn, in order, over as many rounds as it takes', () => {
  turns.take(turn('a', 1));
  for (const name of ['b', 'c', 'd', 'e']) turns.take(turn(name, 0.6));
  expect(taken).toEqual(['a']);
  expect(round()).toEqual(['b', 'c']);
  expect(round()).toEqual(['d', 'e']);
  expect(round()).toEqual([]);
  expect(rounds).toEqual([]);
});

test('each round takes one turn at least, however long turns last', () => {
  turns.take(turn('a', 5));
  turns.take(turn('b', 5));
  turns.take(turn('c', 5));
  expect([taken.slice(), round(), round(), round()]).toEqual([['a'], ['b'], ['c'], []]);
});

test('who asks again in its turn goes behind all others, and not into the same round', () => {
  const again = () => {
    taken.push('again');
    turns.takeLater(again);
  };
  turns.takeLater(again);
  turns.takeLater(turn('a'));
  expect(taken).toEqual([]);
  expect(round()).toEqual(['again', 'a']);
  expect(round()).toEqual(['again']);
  turns.takeLater(turn('b'));
  expect(round()).toEqual(['again', 'b']);
});

test('nobody overtakes who waits, even where there is time again', () => {
  turns.take(turn('a', 2));
  turns.take(turn('b'));
  nowMs -= 2;
  turns.take(turn('c'));
  expect(taken).toEqual(['a']);
  expect(round()).toEqual(['b', 'c']);
});

test('a thousand that are always busy all get the same, and every round ends in time', () => {
  const counts = new Array<number>(1000).fill(0);
  for (const index of counts.keys()) {
    const busy = () => {
      counts[index] = (counts[index] ?? 0) + 1;
      nowMs += 0.03;
      turns.takeLater(busy);
    };
    turns.take(busy);
  }
  for (let count = 0; count < 500; count += 1) {
    const before = nowMs;
    round();
    expect(nowMs - before).toBeLessThan(1.04);
  }
  expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
  expect(Math.min(...counts)).toBeGreaterThan(10);
});
