/**
 * Which handshakes a backend takes and which it refuses, from the text of xen/io/netif.h and the
 * rule that a number is decimal digits and nothing else.
 */

/** Nodes by name below the frontend's directory; the value of a missing one is undefined. */
export type StoreNodes = Readonly<Record<string, string | undefined>>;

/** What the guest has really made: what a reference or a port that is right stands for. */
export interface GuestFacts {
  readonly queuesMax: number;
  /** References under which the backend may map a page, each fresh, all indices alike. */
  readonly mappable: ReadonlySet<number>;
  /** References of pages whose indices make no sense. */
  readonly nonsense: ReadonlySet<number>;
  /** Ports that the backend may bind, once each. */
  readonly bindable: ReadonlySet<number>;
  /** The path of the frontend's directory. */
  readonly frontend: string;
}

const FLAGS = [
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-rx-notify',
  'feature-no-csum-offload',
  'feature-ipv6-csum-offload',
  'request-multicast-control',
];

/** Every reason there is to refuse; the backend may name any of them. Empty: it must connect. */
export function reasonsToRefuse(
  nodes: StoreNodes,
  link: string | undefined,
  facts: GuestFacts,
): Set<string> {
  const reasons = new Set<string>();
  if (link !== facts.frontend) reasons.add('FRONTEND_PATH_INVALID');
  const number = (name: string): number | undefined => {
    const value = nodes[name];
    if (value === undefined) reasons.add('FRONTEND_KEY_MISSING');
    else if (!isU32(value)) reasons.add('FRONTEND_KEY_INVALID');
    else return Number(value);
    return undefined;
  };
  for (const flag of FLAGS) if (nodes[flag] !== undefined) number(flag);
  const copy = nodes['request-rx-copy'];
  if (copy === undefined || copy === '0') reasons.add('RX_COPY_REQUIRED');
  else number('request-rx-copy');
  const queues = nodes['multi-queue-num-queues'] ?? '1';
  const count = isU32(queues) ? Number(queues) : 0;
  if (count < 1 || count > facts.queuesMax) {
    reasons.add('QUEUES_INVALID');
    return reasons;
  }
  const refs: (number | undefined)[] = [];
  const ports: (number | undefined)[] = [];
  for (let queue = 0; queue < count; queue += 1) {
    const prefix = count === 1 ? '' : `queue-${queue}/`;
    refs.push(number(`${prefix}tx-ring-ref`), number(`${prefix}rx-ring-ref`));
    if (nodes[`${prefix}event-channel-tx`] === undefined) {
      ports.push(number(`${prefix}event-channel`));
    } else {
      const [tx, rx] = [number(`${prefix}event-channel-tx`), number(`${prefix}event-channel-rx`)];
      ports.push(tx);
      // The same port twice is one channel for both.
      if (rx !== tx) ports.push(rx);
    }
  }
  if (nodes['ctrl-ring-ref'] !== undefined) {
    refs.push(number('ctrl-ring-ref'));
    ports.push(number('event-channel-ctrl'));
  }
  judgeRefs(refs, ports, facts, reasons);
  return reasons;
}

function judgeRefs(
  refs: readonly (number | undefined)[],
  ports: readonly (number | undefined)[],
  { mappable, nonsense, bindable }: GuestFacts,
  reasons: Set<string>,
): void {
  const known = refs.filter((ref) => ref !== undefined);
  if (new Set(known).size < known.length) reasons.add('RING_REFS_EQUAL');
  if (known.some((ref) => !mappable.has(ref))) reasons.add('GRANT_FAILED');
  if (known.some((ref) => nonsense.has(ref))) reasons.add('RING_OVERFLOW');
  const knownPorts = ports.filter((port) => port !== undefined);
  const isTwice = new Set(knownPorts).size < knownPorts.length;
  if (isTwice || knownPorts.some((port) => !bindable.has(port))) {
    reasons.add('EVENT_CHANNEL_FAILED');
  }
}

/** Decimal digits, no sign, no leading zero, at most 2^32 - 1. */
function isU32(value: string): boolean {
  return (
    String(Number.parseInt(value, 10)) === value && Number(value) >= 0 && Number(value) < 2 ** 32
  );
}
