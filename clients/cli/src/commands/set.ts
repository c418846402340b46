/** `xenvif set`: changes a vif while frames flow. */
import { type RateLimit, type Vif, type VifChanges, XenvifClientError } from '@xenvif/client';
import { type Command, Option } from 'commander';
import { usageError } from '../failure.js';
import {
  addPolicyChanges,
  hasPolicyOptions,
  needsPolicy,
  type PolicyOptions,
  policyOf,
} from '../policy-options.js';
import { inSession, type Session } from '../session.js';
import { labelInto, rateLimit, textInto, wholeNumber } from '../units.js';
import { printVif } from '../vif-text.js';

interface SetOptions extends PolicyOptions {
  readonly mtu?: number;
  /** False with --no-rate. */
  readonly rate?: RateLimit | false;
  readonly switch?: string;
  readonly link?: 'up' | 'down';
  readonly label?: Record<string, string>;
  readonly unlabel?: readonly string[];
}

/** Somebody else may change the vif between our look at it and our change: so often we look again. */
const ATTEMPTS = 5;

const EXAMPLES = `
What is not named stays as it is, within the policy and the labels, too. The guest sees a new MTU when
it connects next; everything else holds at once.

Examples:
  xenvif set 1.0 --rate 1MB/s
  xenvif set 1.0 --no-rate --link down
  xenvif set 1.0 --switch lan --vlan 10 --lock-mac
  xenvif set 1.0 --trunk 10,20,30-39 --native-vlan 1
  xenvif set 1.0 --no-policy --label role=web --unlabel owner`;

export function registerSet(program: Command): void {
  const command = program
    .command('set <vif>')
    .description('change a vif')
    .option('--mtu <bytes>', 'largest Ethernet payload', wholeNumber(68, 65535))
    .option('--rate <rate>', 'limit on what the guest sends: 1MB/s, or bytes,usecs', rateLimit)
    .option('--no-rate', 'no limit on what the guest sends')
    .option('--switch <switch>', 'the switch to be a port of')
    .addOption(new Option('--link <state>', "the guest's carrier").choices(['up', 'down']))
    .option('--label <key=value>', 'set a label (repeatable)', labelInto)
    .option('--unlabel <key>', 'take a label away (repeatable)', textInto);
  addPolicyChanges(command)
    .addHelpText('after', EXAMPLES)
    .action((name: string, options: SetOptions, self: Command) =>
      inSession(self, async (session) => {
        const vif = await change(session, name, options);
        if (session.out.json) session.out.document(vif);
        else printVif(session.out, vif);
      }),
    );
}

async function change(session: Session, name: string, options: SetOptions): Promise<Vif> {
  const { client, interrupt: signal } = session;
  if (!changesLabels(options) && !needsPolicy(options)) {
    const changes = changesOf(options);
    if (Object.values(changes).every((value) => value === undefined)) {
      throw usageError('Nothing to change: see xenvif set --help.');
    }
    return await client.vifs.update(name, changes, { signal });
  }
  for (let attempt = 1; ; attempt += 1) {
    const vif = await client.vifs.get(name, { signal });
    try {
      return await client.vifs.update(name, changesOf(options, vif), { etag: vif.etag, signal });
    } catch (error) {
      const hasChanged = error instanceof XenvifClientError && error.code === 'ETAG_MISMATCH';
      if (!hasChanged || attempt === ATTEMPTS) throw error;
    }
  }
}

function changesLabels({ label, unlabel }: SetOptions): boolean {
  return label !== undefined || unlabel !== undefined;
}

/** What shall change; `vif` is needed where labels or parts of the policy do. */
function changesOf(options: SetOptions, vif?: Vif): VifChanges {
  const { mtu, rate, link } = options;
  return {
    mtu,
    rate: rate === false ? null : rate,
    switch: options.switch,
    linkDown: link === undefined ? undefined : link === 'down',
    portPolicy: hasPolicyOptions(options) ? policyOf(options, vif?.spec.portPolicy) : undefined,
    labels: changesLabels(options) ? labelsOf(options, vif?.labels ?? {}) : undefined,
  };
}

function labelsOf(
  { label, unlabel = [] }: SetOptions,
  current: Readonly<Record<string, string>>,
): Record<string, string> {
  const labels = Object.entries({ ...current, ...label });
  return Object.fromEntries(labels.filter(([key]) => !unlabel.includes(key)));
}
