/** A ping that runs in one guest to another for as long as a test lasts, and its exact account. */

import { sleep } from './deferred.js';
import type { Guest } from './guest.js';

/** Not busybox's, which ends when its socket is full, as it is when nothing was sent for long. */
export const PING = '/usr/bin/ping';
const SETTLE_MS = 30_000;
const POLL_MS = 500;

export interface PingAccount {
  readonly sent: number;
  readonly answered: number;
}

export interface Neighbour {
  readonly guest: Guest;
  readonly address: string;
  readonly mac: string;
}

export class Pinging {
  readonly #guest: Guest;
  readonly #before: PingAccount;

  private constructor(guest: Guest, before: PingAccount) {
    this.#guest = guest;
    this.#before = before;
  }

  /** Starts it, a ping every so many seconds; `address` must be a neighbour that answers, and known by a fixed entry. */
  static async start(guest: Guest, address: string, intervalS = 0.2): Promise<Pinging> {
    const before = await account(guest);
    await guest.check(
      `${PING} -n -q -i ${intervalS} ${address} </dev/null >/tmp/pinging 2>&1 & echo $! >/tmp/pinging.pid`,
    );
    return new Pinging(guest, before);
  }

  /** Ends it and counts, as soon as every ping is answered or none is any more. */
  async end(): Promise<PingAccount> {
    await this.#guest.check('kill $(cat /tmp/pinging.pid) || { cat /tmp/pinging >&2; exit 1; }');
    for (let waited = 0; ; waited += POLL_MS) {
      const now = await account(this.#guest);
      const sent = now.sent - this.#before.sent;
      const answered = now.answered - this.#before.answered;
      if (answered === sent || waited >= SETTLE_MS) return { sent, answered };
      await sleep(POLL_MS);
    }
  }
}

/**
 * What the guest's kernel counts (OutEchos, InEchoReps of RFC 4293's ICMP counters): a ping's socket
 * is too small for all the replies that come at once after a pause.
 */
async function account(guest: Guest): Promise<PingAccount> {
  const text = await guest.check('grep ^Icmp: /proc/net/snmp');
  const [names = [], values = []] = text.split('\n').map((line) => line.trim().split(' '));
  const value = (name: string): number => Number(values[names.indexOf(name)]);
  return { sent: value('OutEchos'), answered: value('InEchoReps') };
}

/**
 * Waits until both guests are up and gives them fixed entries for each other: a neighbour that does
 * not answer for a while is given up else.
 */
export async function knowEachOther(a: Neighbour, b: Neighbour): Promise<void> {
  await Promise.all([a.guest.connected(), b.guest.connected()]);
  await Promise.all([
    a.guest.check(`arp -s ${b.address} ${b.mac}`),
    b.guest.check(`arp -s ${a.address} ${a.mac}`),
  ]);
}
