/** The user-space stack's TCP, beside Linux's own over the same ways in the same run. */
import { join } from 'node:path';
import { node } from './programs.js';
import type { Group, Measure, Place, Ratio } from './rows.js';
import { missingForSpaces } from './spaces.js';

const LOOPBACK = 'Linux, loopback';
const TAPS = 'Linux to Linux, two TAPs on the switch';
const VETH = 'Linux to Linux, veth';

/** Two hosts of one process. */
export function iperfSelf(place: Place): Group {
  const ours = [
    measure(place, 'two stacks on the switch', 'switch'),
    measure(place, 'two stacks on the switch, a frame a segment', 'segments'),
    measure(place, 'two stacks on gRPC streams (the example)', 'grpc'),
  ];
  return {
    name: 'iperf-self, TCP one way',
    measures: [measure(place, LOOPBACK, 'loopback'), ...ours],
    ratios: ours.map(({ name }) => ratio(name, LOOPBACK)),
  };
}

/** The stack and Linux, from a process in a network namespace to one outside. */
export function stackOverTap(place: Place): Group {
  const name = 'TCP over a TAP, one way';
  const missing = missingForSpaces();
  if (missing !== undefined) {
    const run = () => Promise.resolve(Number.NaN);
    const text = `not measured: this machine lacks ${missing}`;
    return { name, measures: [{ name: text, unit: 'MB/s', run }], ratios: [] };
  }
  const ours = [
    measure(place, 'the stack to Linux', 'to-kernel'),
    measure(place, 'Linux to the stack', 'from-kernel'),
  ];
  return {
    name,
    measures: [measure(place, TAPS, 'taps'), measure(place, VETH, 'veth'), ...ours],
    ratios: ours.flatMap((each) => [ratio(each.name, TAPS), ratio(each.name, VETH)]),
  };
}

function measure({ here, seconds }: Place, name: string, mode: string): Measure {
  return {
    name,
    unit: 'MB/s',
    run: async () => {
      const program = node(join(here, 'stack.js'), mode, `${seconds}`);
      const { rate }: { rate: number } = JSON.parse(await program.line());
      return rate / 1e6;
    },
  };
}

function ratio(ours: string, theirs: string): Ratio {
  return { text: `${ours}, of ${theirs}`, of: [ours, theirs] };
}
