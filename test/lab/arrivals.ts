/**
 * When pings arrive at a guest, each by its number: what was lost, what came twice, and how long nothing
 * came. tcpdump listens in the guest, which counts there, so that the console carries only the account.
 */

import type { Guest } from './guest.js';

const FILTERS = {
  request: 'icmp[icmptype] == icmp-echo',
  reply: 'icmp[icmptype] == icmp-echoreply',
} as const;

/** Says of tcpdump's lines what the account is; `gap` is the least that counts as one. */
const AWK = [
  '{ time = $1; sub(/.*seq /, ""); number = $0 + 0; total++ }',
  'number in seen { duplicates++ }',
  '{ seen[number] = 1 }',
  'last && time - last > gap { printf "gap %.3f\\n", time - last }',
  '{ last = time }',
  'END { printf "total %d\\nduplicates %d\\n", total, duplicates }',
].join(' ');

export interface ArrivalAccount {
  readonly total: number;
  /** Those of a number that had come before. */
  readonly duplicates: number;
  /** How long nothing came, in seconds, each time that was longer than asked for. */
  readonly gaps: readonly number[];
}

export class Arrivals {
  readonly #guest: Guest;
  readonly #kind: keyof typeof FILTERS;

  private constructor(guest: Guest, kind: keyof typeof FILTERS) {
    this.#guest = guest;
    this.#kind = kind;
  }

  /** Starts to listen on eth0; at most one listener of a kind at once in a guest. */
  static async listen(guest: Guest, kind: keyof typeof FILTERS): Promise<Arrivals> {
    await guest.check(
      [
        `tcpdump -Z root -p -i eth0 -n -tt -l '${FILTERS[kind]}' </dev/null >/tmp/${kind} 2>/tmp/${kind}.log &`,
        `echo $! >/tmp/${kind}.pid`,
        `until grep -q listening /tmp/${kind}.log; do`,
        `kill -0 $(cat /tmp/${kind}.pid) || { cat /tmp/${kind}.log; exit 1; }`,
        'sleep 0.1',
        'done',
      ].join('\n'),
    );
    return new Arrivals(guest, kind);
  }

  /** Ends listening. Gaps shorter than `gapS` seconds are none. */
  async account(gapS: number): Promise<ArrivalAccount> {
    const kind = this.#kind;
    const text = await this.#guest.check(
      `kill $(cat /tmp/${kind}.pid); sleep 0.5; awk -v gap=${gapS} '${AWK}' /tmp/${kind}`,
    );
    const values = (name: string): number[] =>
      [...text.matchAll(new RegExp(`^${name} (.*)$`, 'gm'))].map(([, value]) => Number(value));
    const [total = Number.NaN] = values('total');
    const [duplicates = Number.NaN] = values('duplicates');
    return { total, duplicates, gaps: values('gap') };
  }
}
