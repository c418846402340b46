import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import {
  addPolicyChanges,
  addPolicyOptions,
  hasPolicyOptions,
  type PolicyOptions,
  policyOf,
} from '../../../../clients/cli/src/policy-options.js';
import { policyText } from '../../../../clients/cli/src/policy-text.js';
import type { PortPolicy } from '../../../../clients/typescript/src/index.js';

function parse(add: (command: Command) => Command, args: readonly string[]): PolicyOptions {
  const command = add(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  return command.parse([...args], { from: 'user' }).opts<PolicyOptions>();
}

const changes = (...args: string[]): PolicyOptions => parse(addPolicyChanges, args);

const TRUNK: PortPolicy = {
  lockMac: true,
  allowedAddresses: ['10.0.0.1'],
  accessVlan: 0,
  trunkVlans: [10, 20],
  nativeVlan: 1,
  isolated: true,
  broadcastPerSecond: 100,
  unknownUnicastPerSecond: 0,
  rate: { bytesPerInterval: 5n, intervalMs: 50 },
};

describe('the options of a policy', () => {
  it('say nothing where none is given', () => {
    expect(hasPolicyOptions(changes())).toBe(false);
    expect(policyOf(changes(), TRUNK)).toBeUndefined();
    expect(policyOf(parse(addPolicyOptions, []))).toBeUndefined();
  });

  it('make a policy of what is given', () => {
    const args = '--lock-mac --allow-address 10.0.0.1,fe80::1 --allow-address 10.0.0.2 --vlan 10';
    const more = '--isolated --broadcast-limit 100 --unknown-limit 0 --port-rate 1MB/s';
    expect(policyOf(parse(addPolicyOptions, `${args} ${more}`.split(' ')))).toEqual({
      lockMac: true,
      allowedAddresses: ['10.0.0.1', 'fe80::1', '10.0.0.2'],
      accessVlan: 10,
      trunkVlans: [],
      nativeVlan: 0,
      isolated: true,
      broadcastPerSecond: 100,
      unknownUnicastPerSecond: 0,
      rate: { bytesPerInterval: 50_000n, intervalMs: 50 },
    });
  });

  it('change their part of a policy, and leave the rest', () => {
    expect(policyOf(changes('--no-isolated'), TRUNK)).toEqual({ ...TRUNK, isolated: false });
    expect(policyOf(changes('--no-port-rate', '--any-address'), TRUNK)).toEqual({
      ...TRUNK,
      rate: undefined,
      allowedAddresses: [],
    });
    expect(policyOf(changes('--no-lock-mac', '--native-vlan', '7'), TRUNK)).toEqual({
      ...TRUNK,
      lockMac: false,
      nativeVlan: 7,
    });
  });

  it('make a trunk an access port, and the other way round', () => {
    const access = policyOf(changes('--vlan', '5'), TRUNK);
    expect(access).toMatchObject({ accessVlan: 5, trunkVlans: [], nativeVlan: 0 });
    const trunk = policyOf(changes('--trunk', '3,1-2'), { ...TRUNK, accessVlan: 5 });
    expect(trunk).toMatchObject({ accessVlan: 0, trunkVlans: [1, 2, 3] });
    expect(policyOf(changes('--no-vlan'), TRUNK)).toMatchObject({
      accessVlan: 0,
      trunkVlans: [],
      nativeVlan: 0,
      lockMac: true,
    });
  });

  it('clear everything but what is given with --no-policy', () => {
    expect(policyOf(changes('--no-policy'), TRUNK)).toEqual({});
    expect(policyOf(changes('--no-policy', '--isolated'), TRUNK)).toEqual({ isolated: true });
  });

  it.each([
    ['--vlan', '0'],
    ['--vlan', '4095'],
    ['--trunk', '10-5'],
    ['--trunk', 'ten'],
    ['--allow-address', '10.0.0.1/24'],
    ['--port-rate', 'fast'],
  ])('refuse %s %s', (...args) => {
    expect(() => changes(...args)).toThrow('is invalid');
  });
});

describe('a policy in a line', () => {
  it('tells what it restricts', () => {
    expect(policyText(undefined)).toBe('-');
    expect(policyText({ ...TRUNK, trunkVlans: [10, 11, 12, 20] })).toBe(
      'MAC locked, only from 10.0.0.1, trunk 10-12,20, native VLAN 1, isolated, ' +
        '100 broadcasts/s, 5 bytes each 50 ms',
    );
  });
});
