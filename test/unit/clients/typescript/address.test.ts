import { describe, expect, it } from 'vitest';
import {
  type AddressEnvironment,
  defaultAddress,
  parseAddress,
} from '../../../../clients/typescript/src/address.js';
import { parseVifName, vifName } from '../../../../clients/typescript/src/vif-name.js';

function environment(env: Record<string, string>, sockets: readonly string[]): AddressEnvironment {
  const exists = (path: string): boolean => sockets.includes(path);
  return { env, temporaryDirectory: '/tmp', uid: 1000, exists };
}

const SYSTEM = '/run/xenvif/xenvifd.sock';
const SESSION = '/run/user/1000/xenvif/xenvifd.sock';
const OWN = '/tmp/xenvif-1000/xenvifd.sock';
const XDG = { XDG_RUNTIME_DIR: '/run/user/1000' };

describe('an address', () => {
  it.each([
    ['/run/x.sock', 'unix:/run/x.sock'],
    ['unix:/run/x.sock', 'unix:/run/x.sock'],
    ['unix:///run/x.sock', 'unix:/run/x.sock'],
    ['127.0.0.1:7637', '127.0.0.1:7637'],
    ['dom0.example:80', 'dom0.example:80'],
    ['[::1]:7637', '[::1]:7637'],
  ])('%s is understood', (given, expected) => {
    expect(parseAddress(given)).toBe(expected);
  });

  it.each(['', 'localhost', 'unix:x.sock', 'host:0', 'host:65536', 'http://host:1', '::1:80x'])(
    '%s is refused',
    (given) => {
      expect(() => parseAddress(given)).toThrow(
        expect.objectContaining({ code: 'ADDRESS_INVALID' }),
      );
    },
  );

  it('comes from XENVIF_ADDRESS first', () => {
    const env = { ...XDG, XENVIF_ADDRESS: '/my.sock' };
    expect(defaultAddress(environment(env, [SYSTEM]))).toBe('unix:/my.sock');
  });

  it.each([
    [[SYSTEM, SESSION, OWN], `unix:${SYSTEM}`],
    [[SESSION, OWN], `unix:${SESSION}`],
    [[OWN], `unix:${OWN}`],
    [[], '127.0.0.1:7637'],
  ])('is else the first socket that exists of %j', (sockets, expected) => {
    expect(defaultAddress(environment(XDG, sockets))).toBe(expected);
  });

  it('does without XDG_RUNTIME_DIR', () => {
    expect(defaultAddress(environment({}, [SESSION, OWN]))).toBe(`unix:${OWN}`);
  });
});

describe('the name of a vif', () => {
  it.each(['vifs/3.1', '3.1', 'vif3.1'])('may be written %s', (name) => {
    expect(vifName(name)).toBe('vifs/3.1');
    expect(parseVifName(name)).toEqual({ domid: 3, handle: 1 });
  });

  it.each(['', '3', '3.', 'eth0', 'vifs/03.1', 'vifs/3.1.0', '40000.0', '3.65536', '-1.0'])(
    'cannot be %j',
    (name) => {
      expect(() => vifName(name)).toThrow(expect.objectContaining({ code: 'VIF_NAME_INVALID' }));
    },
  );
});
