/**
 * What a frontend asks of its backend and offers to it. Everything is on that costs nothing; each
 * thing can be left out, which is how a frontend of another make is played.
 */

export interface NetfrontOptions {
  /**
   * The most queues to ask for, 1 to 16. One thread of ours serves all of them, so more than the
   * one of the default bring no speed, and each costs 514 granted pages of the 1024 that Linux'
   * gntalloc gives out by default.
   */
  readonly queuesMax?: number;
  /** An event channel for each direction, where the backend has it. */
  readonly splitEventChannels?: boolean;
  /** Frames of several slots, both ways. Without it there is no segmentation offload either. */
  readonly scatterGather?: boolean;
  readonly gsoTcpv4?: boolean;
  readonly gsoTcpv6?: boolean;
  /** TCP and UDP checksums over IPv4 may be blank, both ways. */
  readonly checksumIpv4?: boolean;
  readonly checksumIpv6?: boolean;
  /** Only multicast frames that were asked for, where the backend can filter. */
  readonly multicastControl?: boolean;
  /** A control ring, where the backend has it. */
  readonly controlRing?: boolean;
  /** How long a backend may take to let go when we close. */
  readonly closeTimeoutMs?: number;
  /** Where the free-running indices of new rings begin; for tests that want them to wrap. */
  readonly ringStart?: number;
}

/** Options with nothing left open. */
export type NetfrontSettings = Required<NetfrontOptions>;

const QUEUES_MAX = 16;

const DEFAULTS: NetfrontSettings = {
  queuesMax: 1,
  splitEventChannels: true,
  scatterGather: true,
  gsoTcpv4: true,
  gsoTcpv6: true,
  checksumIpv4: true,
  checksumIpv6: true,
  multicastControl: false,
  controlRing: false,
  closeTimeoutMs: 5000,
  ringStart: 0,
};

export function withDefaults(options: NetfrontOptions): NetfrontSettings {
  const settings = { ...DEFAULTS, ...options };
  const { scatterGather } = settings;
  return {
    ...settings,
    queuesMax: Math.min(QUEUES_MAX, Math.max(1, Math.floor(settings.queuesMax))),
    gsoTcpv4: settings.gsoTcpv4 && scatterGather,
    gsoTcpv6: settings.gsoTcpv6 && scatterGather,
  };
}
