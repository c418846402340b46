/** Quantities as people type and read them. */
import type { RateLimit } from '@xenvif/client';
import { InvalidArgumentError } from 'commander';

/** A whole number in a range; for commander, which puts the message behind the option's name. */
export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Write a whole number from ${least} to ${most}.`);
  };
}

/** A duration: `2`, `1.5s`, `200ms`. Answers milliseconds. Bare numbers are seconds. */
export function durationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text);
  const factor = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }[match?.[2] ?? 's'];
  if (match === null || factor === undefined) {
    throw new InvalidArgumentError('Write seconds, or a number with ms, s, m or h.');
  }
  return Number(match[1]) * factor;
}

/** A number of bytes: `65536`, `64KiB`, `4M`. Powers of 1024, as memory is counted. */
export function byteCount(text: string): number {
  const match = /^(\d+)([KMG])?(?:i?B)?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('Write bytes, or a number with K, M or G.');
  return Number(match[1]) * 1024 ** ('KMG'.indexOf((match[2] ?? '').toUpperCase() || '-') + 1);
}

/**
 * A rate as xl.cfg has it: `1MB/s`, `800Kb/s@20ms` (b: bits, K, M, G: powers of 1000; the interval is
 * 50 ms unless given), or as XenStore has it: `<bytes>,<microseconds>`.
 */
export function rateLimit(text: string): RateLimit {
  const stored = /^(\d+),(\d+)$/.exec(text);
  if (stored !== null) {
    return { bytesPerInterval: BigInt(stored[1] ?? 0), intervalMs: Number(stored[2]) / 1_000 };
  }
  const match = /^(\d+)([KMG])?([Bb])\/s(?:@(\d+)(ms|us|s))?$/.exec(text);
  if (match === null) {
    throw new InvalidArgumentError('Write for example 1MB/s, 800Kb/s@20ms or <bytes>,<usecs>.');
  }
  const [, digits, prefix, unit, interval, intervalUnit] = match;
  const perSecond = Number(digits) * 1000 ** ('KMG'.indexOf(prefix ?? '-') + 1);
  const factor = { us: 0.001, ms: 1, s: 1_000 }[intervalUnit ?? 'ms'] ?? 1;
  const intervalMs = interval === undefined ? 50 : Number(interval) * factor;
  const bytesPerSecond = unit === 'b' ? perSecond / 8 : perSecond;
  const bytesPerInterval = BigInt(Math.max(1, Math.round((bytesPerSecond * intervalMs) / 1_000)));
  return { bytesPerInterval, intervalMs };
}

/** VLANs: `10,20,30-39`. */
export function vlanList(text: string): number[] {
  const vlans = new Set<number>();
  for (const part of text.split(',')) {
    const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (!(from >= 1 && to <= 4094 && from <= to)) {
      throw new InvalidArgumentError('Write VLANs from 1 to 4094, for example 10,20,30-39.');
    }
    for (let vlan = from; vlan <= to; vlan += 1) vlans.add(vlan);
  }
  return [...vlans].sort((a, b) => a - b);
}

/** VLANs as `vlanList` reads them. */
export function vlanListText(vlans: readonly number[]): string {
  const runs: string[] = [];
  let start = 0;
  for (let index = 0; index < vlans.length; index += 1) {
    const vlan = vlans[index] ?? 0;
    if (vlans[index + 1] === vlan + 1) continue;
    runs.push(index === start ? String(vlan) : `${vlans[start]}-${vlan}`);
    start = index + 1;
  }
  return runs.join(',');
}

/** Gathers texts of an option that may be repeated, or has several with commas. */
export function textInto(text: string, previous: readonly string[] = []): string[] {
  return [...previous, ...text.split(',').filter((part) => part !== '')];
}

/** Gathers `key=value` options. */
export function labelInto(
  text: string,
  previous: Record<string, string> = {},
): Record<string, string> {
  const split = text.indexOf('=');
  if (split < 1) throw new InvalidArgumentError('Write key=value.');
  return { ...previous, [text.slice(0, split)]: text.slice(split + 1) };
}

/** Bytes with a prefix: `1.5 kB`. Powers of 1000, as traffic is counted. */
export function bytesText(bytes: number | bigint): string {
  return `${prefixed(Number(bytes))}B`;
}

/** A rate in bits per second: `9.7 Gb/s`. */
export function bitRateText(bytesPerSecond: number): string {
  return `${prefixed(bytesPerSecond * 8)}b/s`;
}

/** A rate of packets: `1.2 k/s`. */
export function packetRateText(packetsPerSecond: number): string {
  return `${prefixed(packetsPerSecond)}/s`.replace(' /s', '/s');
}

function prefixed(value: number): string {
  const prefixes = ['', 'k', 'M', 'G', 'T', 'P'];
  let scaled = value;
  let index = 0;
  while (scaled >= 999.5 && index < prefixes.length - 1) {
    scaled /= 1000;
    index += 1;
  }
  const digits = index === 0 ? String(Math.round(scaled)) : scaled.toPrecision(3);
  return `${digits} ${prefixes[index]}`;
}

/** How long ago: `12 s`, `3 min`, `5 h`, `9 d`. */
export function ageText(since: Date | undefined, now = new Date()): string {
  if (since === undefined) return '';
  const seconds = Math.max(0, Math.round((now.getTime() - since.getTime()) / 1_000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** `k=v,k=v`. */
export function labelsText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

/** `vifs/1.0`, `switches/default` and `switches/default/ports/tap0` as people write them. */
export function shortName(name: string): string {
  return name.replace(/^(?:vifs|switches)\//, '').replace('/ports/', '/');
}
