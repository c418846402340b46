/** What is kept of a switch and of what was plugged in at a port: the same wherever it is kept. */
import { z } from 'zod';

export const switchSchema = z.strictObject({
  uid: z.string(),
  labels: z.record(z.string(), z.string()),
  spec: z.strictObject({
    ageingSeconds: z.int().positive(),
    entriesPerPort: z.int().positive(),
    hub: z.boolean(),
  }),
});

export const portSchema = z.strictObject({
  device: z.discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('tap'),
      interface: z.string(),
      mtu: z.int(),
      persist: z.boolean(),
      owner: z.int().optional(),
    }),
    z.strictObject({ kind: z.literal('netfront'), handle: z.int() }),
  ]),
  policy: z.string(),
  mirror: z
    .strictObject({
      sources: z.array(z.string()),
      destinations: z.array(z.string()),
      vlans: z.array(z.int()),
    })
    .optional(),
});

/** What is wanted of a switch. */
export type SwitchRecord = z.output<typeof switchSchema>;
/** What was plugged in at a port, and how. */
export type PortRecord = z.output<typeof portSchema>;
export type PortDevice = PortRecord['device'];
export type MirrorRecord = NonNullable<PortRecord['mirror']>;
