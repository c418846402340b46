import { expect, it } from 'vitest';
import { observed } from '../../../../clients/typescript/src/observed.js';

const modeOf = (...names: string[]) => {
  const { names: full, purpose } = observed(names);
  return { full, ...purpose };
};

it('takes vifs, alone and together, by either name', () => {
  expect(modeOf('1.0', 'vifs/2.1')).toMatchObject({ full: ['vifs/1.0', 'vifs/2.1'], mode: 1 });
  expect(observed('3.0').purpose.vifs).toEqual(['vifs/3.0']);
});

it.each([
  ['switches/lan/ports/tap0', 'switches/lan/ports/tap0', 'switches/lan', ['tap0']],
  ['lan/tap0', 'switches/lan/ports/tap0', 'switches/lan', ['tap0']],
  ['default/vif-1.0', 'switches/default/ports/vif-1.0', 'switches/default', ['vif-1.0']],
  ['switches/lan', 'switches/lan', 'switches/lan', []],
])('hears %s through a mirror, both ways', (name, full, parent, ports) => {
  expect(modeOf(name)).toMatchObject({
    full: [full],
    mode: 2,
    switch: parent,
    port: { mirror: { sources: ports, destinations: ports } },
  });
});

it.each([
  ['lan', 'VIF_NAME_INVALID'],
  ['', 'VIF_NAME_INVALID'],
  ['vifs/lan', 'VIF_NAME_INVALID'],
  ['switches/', 'SWITCH_NAME_INVALID'],
  ['lan/', 'VIF_NAME_INVALID'],
  ['a/b/c', 'PORT_NAME_INVALID'],
  ['switches/lan/tap0', 'PORT_NAME_INVALID'],
])('says that %o names nothing', (name, code) => {
  expect(() => observed(name)).toThrow(expect.objectContaining({ code }));
});

it('observes a port alone', () => {
  const alone = expect.objectContaining({ code: 'PORT_NOT_ALONE' });
  expect(() => observed(['1.0', 'lan/tap0'])).toThrow(alone);
  expect(() => observed(['lan/tap0', 'lan/tap1'])).toThrow(alone);
  expect(() => observed(['switches/lan', '1.0'])).toThrow(alone);
});
