/** The state that is: what the daemon tells of switches, ports, vifs and guests. */
import type { Domain, Port, Switch, Vif, XenvifClient } from '@xenvif/client';

export interface PresentState {
  readonly switches: readonly Switch[];
  /** The TAPs and uplinks of each switch, by its id. */
  readonly ports: ReadonlyMap<string, readonly Port[]>;
  readonly vifs: readonly Vif[];
  readonly domains: readonly Domain[];
}

/** As much as the daemon gives at once. */
const PAGE_SIZE = 1000;

/** @throws XenvifClientError */
export async function readPresentState(
  client: XenvifClient,
  signal: AbortSignal,
): Promise<PresentState> {
  const options = { pageSize: PAGE_SIZE, signal };
  const switches = await all(client.switches.list(options));
  const ports = new Map<string, Port[]>();
  for (const { id } of switches) {
    const found = await client.switches.ports(id, { signal });
    ports.set(id, found.filter(isOwnPort));
  }
  return {
    switches,
    ports,
    vifs: await all(client.vifs.list(options)),
    domains: await all(client.host.domains(options)),
  };
}

/** Whether a port was plugged in for itself: those of vifs and clients come and go with them. */
function isOwnPort({ kind }: Port): boolean {
  return kind === 'tap' || kind === 'netfront';
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const gathered: T[] = [];
  for await (const item of items) gathered.push(item);
  return gathered;
}
