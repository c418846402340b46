import { describe, expect, it } from 'vitest';
import { Output, type TextStream, toJson } from '../../../../clients/cli/src/output.js';
import {
  ageText,
  bitRateText,
  byteCount,
  bytesText,
  durationMs,
  labelInto,
  packetRateText,
  rateLimit,
  wholeNumber,
} from '../../../../clients/cli/src/units.js';

describe('a rate', () => {
  it.each([
    ['1MB/s', 50_000n, 50],
    ['10Mb/s', 62_500n, 50],
    ['800Kb/s@20ms', 2_000n, 20],
    ['1GB/s@1s', 1_000_000_000n, 1_000],
    ['100B/s@50000us', 5n, 50],
    ['625000,50000', 625_000n, 50],
  ])('is written %s', (text, bytesPerInterval, intervalMs) => {
    expect(rateLimit(text)).toEqual({ bytesPerInterval, intervalMs });
  });

  it.each(['', '1', '1MB', 'MB/s', '1TB/s', '1MB/s@', '1,2,3', '-1,50'])('is not %j', (text) => {
    expect(() => rateLimit(text)).toThrow('Write for example');
  });
});

describe('quantities', () => {
  it('are read', () => {
    expect([durationMs('2'), durationMs('1.5s'), durationMs('200ms'), durationMs('1m')]).toEqual([
      2_000, 1_500, 200, 60_000,
    ]);
    expect([byteCount('65536'), byteCount('64KiB'), byteCount('4M'), byteCount('1GB')]).toEqual([
      65_536,
      65_536,
      4 * 1024 ** 2,
      1024 ** 3,
    ]);
    expect(wholeNumber(1, 10)('10')).toBe(10);
    expect(labelInto('a=b=c', labelInto('x='))).toEqual({ x: '', a: 'b=c' });
  });

  it.each([
    () => durationMs('fast'),
    () => durationMs('-1'),
    () => byteCount('1.5M'),
    () => wholeNumber(1, 10)('11'),
    () => wholeNumber(1, 10)('1.0'),
    () => labelInto('=x'),
  ])('are refused: %s', (read) => {
    expect(read).toThrow('Write');
  });

  it('are printed with prefixes', () => {
    expect([0, 999, 1000, 1536, 999_999, 12_345_678n].map(bytesText)).toEqual([
      '0 B',
      '999 B',
      '1.00 kB',
      '1.54 kB',
      '1.00 MB',
      '12.3 MB',
    ]);
    expect(bitRateText(1_250_000_000)).toBe('10.0 Gb/s');
    expect(packetRateText(0)).toBe('0/s');
    expect(packetRateText(23_400_000)).toBe('23.4 M/s');
    const now = new Date();
    expect(ageText(new Date(now.getTime() - 5_000), now)).toBe('5 s');
    expect(ageText(new Date(now.getTime() - 7_200_000), now)).toBe('2 h');
  });
});

/** Keeps what is written. */
class Page implements TextStream {
  readonly isTTY: boolean;
  readonly columns = 80;
  text = '';

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.text += text;
  }
}

describe('output', () => {
  it('is plain aligned columns in a pipe', () => {
    const page = new Page(false);
    const out = new Output(page, false, {});
    out.table(
      ['VIF', 'PKTS'],
      [
        ['1.0', '7'],
        ['10.0', out.styled('1234', 'bad')],
      ],
      [1],
    );
    expect(page.text).toBe('VIF   PKTS\n1.0      7\n10.0  1234\n');
  });

  it('has borders and colours on a terminal, and no colours with NO_COLOR', () => {
    const page = new Page(true);
    const coloured = new Output(page, false, {});
    coloured.table(['A'], [[coloured.styled('x', 'good')]]);
    expect(page.text).toContain('│');
    expect(page.text).toContain('\u001b[32mx\u001b[0m');
    const plain = new Page(true);
    const uncoloured = new Output(plain, false, { NO_COLOR: '1' });
    uncoloured.table(['A'], [[uncoloured.styled('x', 'good')]]);
    expect(plain.text).toContain('│');
    expect(plain.text).not.toContain('\u001b');
  });

  it('takes back as many rows as a text took up, folded lines too', () => {
    const page = new Page(true);
    new Output(page, false, {}).erase(
      `short\n${'x'.repeat(161)}\n\u001b[1m${'y'.repeat(80)}\u001b[0m`,
    );
    expect(page.text).toBe('\u001b[5A\u001b[0J');
  });

  it('writes 64-bit numbers as numbers as long as they are exact', () => {
    const most = BigInt(Number.MAX_SAFE_INTEGER);
    expect(toJson({ a: 7n, b: most, c: most + 1n, d: new Date(0) })).toBe(
      '{"a":7,"b":9007199254740991,"c":"9007199254740992","d":"1970-01-01T00:00:00.000Z"}',
    );
  });
});
