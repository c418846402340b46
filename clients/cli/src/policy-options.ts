/**
 * A port's policy on the command line: the same options wherever a port is made or changed. Options
 * that are given change their part of the policy; the rest stays as it is.
 */
import { isIP } from 'node:net';
import type { PortPolicy, PortPolicyInput, RateLimit } from '@xenvif/client';
import { type Command, InvalidArgumentError } from 'commander';
import { rateLimit, vlanList, wholeNumber } from './units.js';

export interface PolicyOptions {
  readonly lockMac?: boolean;
  readonly allowAddress?: readonly string[];
  readonly anyAddress?: boolean;
  /** False with --no-vlan. */
  readonly vlan?: number | false;
  readonly trunk?: readonly number[];
  readonly nativeVlan?: number;
  readonly isolated?: boolean;
  readonly broadcastLimit?: number;
  readonly unknownLimit?: number;
  /** False with --no-port-rate. */
  readonly portRate?: RateLimit | false;
  /** False with --no-policy. */
  readonly policy?: boolean;
}

const VLAN = wholeNumber(1, 4094);
const PER_SECOND = wholeNumber(0, 2 ** 32 - 1);

/** Adds the options of a policy to a command that makes a port. */
export function addPolicyOptions(command: Command): Command {
  return command
    .option('--lock-mac', "drop what does not come from the port's own MAC address")
    .option(
      '--allow-address <ip>',
      'drop what comes from another address (repeatable)',
      addressInto,
    )
    .option('--vlan <id>', 'access VLAN: frames are untagged at the port', VLAN)
    .option('--trunk <ids>', 'VLANs that pass tagged, for example 10,20,30-39', vlanList)
    .option('--native-vlan <id>', 'VLAN of untagged frames on a trunk', VLAN)
    .option('--isolated', 'exchange frames only with ports that are not isolated')
    .option('--broadcast-limit <frames>', 'broadcasts and multicasts a second (0: any)', PER_SECOND)
    .option('--unknown-limit <frames>', 'frames to unknown addresses a second (0: any)', PER_SECOND)
    .option('--port-rate <rate>', 'limit on what the port sends: 1MB/s, or bytes,usecs', rateLimit);
}

/** Adds them to a command that changes a port, with their opposites. */
export function addPolicyChanges(command: Command): Command {
  return addPolicyOptions(command)
    .option('--no-lock-mac', 'let any MAC address through')
    .option('--any-address', 'let any IP address through')
    .option('--no-vlan', 'neither access port nor trunk')
    .option('--no-isolated', 'exchange frames with every port')
    .option('--no-port-rate', 'no limit on what the port sends')
    .option('--no-policy', 'no restriction but those given with it');
}

/** Whether any option of a policy was given. */
export function hasPolicyOptions(options: PolicyOptions): boolean {
  return options.policy === false || Object.keys(partsOf(options)).length > 0;
}

/** Whether the policy that the options make depends on the one there is. */
export function needsPolicy(options: PolicyOptions): boolean {
  return hasPolicyOptions(options) && options.policy !== false;
}

/** The policy that `options` make of `current`; undefined where none was given. */
export function policyOf(
  options: PolicyOptions,
  current: PortPolicy | undefined = undefined,
): PortPolicyInput | undefined {
  if (!hasPolicyOptions(options)) return undefined;
  return { ...(options.policy === false ? {} : current), ...partsOf(options) };
}

/** The parts of the policy that were given. */
function partsOf(options: PolicyOptions): PortPolicyInput {
  const { lockMac, isolated, broadcastLimit, unknownLimit, portRate } = options;
  const addresses = options.anyAddress ? [] : options.allowAddress;
  return {
    ...(lockMac !== undefined && { lockMac }),
    ...(addresses !== undefined && { allowedAddresses: addresses }),
    ...vlanParts(options),
    ...(isolated !== undefined && { isolated }),
    ...(broadcastLimit !== undefined && { broadcastPerSecond: broadcastLimit }),
    ...(unknownLimit !== undefined && { unknownUnicastPerSecond: unknownLimit }),
    ...(portRate !== undefined && { rate: portRate === false ? undefined : portRate }),
  };
}

/** A port is an access port or a trunk: becoming one ends being the other. */
function vlanParts({ vlan, trunk, nativeVlan }: PolicyOptions): PortPolicyInput {
  if (vlan === false) return { accessVlan: 0, trunkVlans: [], nativeVlan: 0 };
  if (vlan !== undefined) return { accessVlan: vlan, trunkVlans: [], nativeVlan: 0 };
  return {
    ...((trunk !== undefined || nativeVlan !== undefined) && { accessVlan: 0 }),
    ...(trunk !== undefined && { trunkVlans: trunk }),
    ...(nativeVlan !== undefined && { nativeVlan }),
  };
}

function addressInto(text: string, previous: readonly string[] = []): string[] {
  const addresses = text.split(',');
  if (addresses.every((address) => isIP(address) !== 0)) return [...previous, ...addresses];
  throw new InvalidArgumentError('Write an IPv4 or IPv6 address.');
}
