/**
 * How long each step of the lab may take, in milliseconds.
 *
 * The comment is what was seen on two cores with nothing else running. The limits are far above it
 * because emulation shares those cores with whatever else runs, and a limit that is too long costs
 * only a failing run its time, while one that is too short fails a good run.
 */
export const deadlines = {
  /** From QEMU's start to dom0's init: Xen boots, then dom0's kernel. Seen: 3 to 4 s. */
  kernelMs: 180_000,
  /** dom0 mounts this machine's files. Seen: 1 s. */
  filesMs: 90_000,
  /** dom0 starts xenstored and registers itself as domain 0. Seen: 1 s. */
  xenstoredMs: 60_000,
  /** dom0 starts xenconsoled. Seen: under 1 s. */
  xenconsoledMs: 60_000,
  /** dom0's agent, a Node.js program, starts and says hello. Seen: 1 s. */
  agentMs: 90_000,
  /** One command in dom0, when the caller gives no limit. */
  runMs: 240_000,
  /** xl create: builds the domain and waits for its backends. Seen: 3 s. */
  guestCreateMs: 180_000,
  /** The guest's kernel boots and its init answers. Seen: 5 s. */
  guestReadyMs: 180_000,
  /** One command in a guest, when the caller gives no limit. */
  guestRunMs: 240_000,
  /** A guest that was asked to power off, or destroyed, is gone from xl list. Seen: 2 s. */
  guestGoneMs: 60_000,
  /** dom0 powers off; after that QEMU is killed. Seen: 1 s. */
  powerOffMs: 10_000,
} as const;
