/** The Python client as a program of Debian's Python, against a real daemon. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const run = promisify(execFile);
const directory = fileURLToPath(new URL('../../clients/python/', import.meta.url));
const PYTHON = '/usr/bin/python3';

let daemon: DaemonUnderTest;

beforeAll(async () => {
  daemon = await startDaemon();
});

afterAll(async () => {
  await daemon?.stop();
});

function python(...args: string[]) {
  const env = { ...process.env, XENVIF_ADDRESS: daemon.address, PYTHONDONTWRITEBYTECODE: '1' };
  return run(PYTHON, ['-W', 'ignore', ...args], { cwd: directory, env });
}

describe('the Python client', () => {
  for (const kind of ['unix', 'tcp'] as const) {
    it(`creates, watches and deletes a vif over ${kind}`, async () => {
      const address = kind === 'unix' ? daemon.address : daemon.tcp;
      const { stdout } = await python('second_interface.py', '1', '--address', address);
      const lines = stdout.trim().split('\n');
      expect(lines).toContainEqual(expect.stringMatching(/^created vifs\/1\.1 00:16:3e:/));
      expect(lines).toContain('updated vifs/1.1 connected CONNECTED');
      expect(lines.at(-1)).toMatch(/^deleted vifs\/1\.1 deleting OFFLINE$/);
    });
  }

  it('tells a refusal by its reason and its field', async () => {
    const refused = python('second_interface.py', '77');
    await expect(refused).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/There is no domain 77\. \(DOMAIN_NOT_FOUND\)/),
    });
    const script = [
      'from xenvif import Client, XenvifError',
      'with Client() as client:',
      '  try: client.VifService.CreateVif(domid=1, spec=client.message("VifSpec", mtu=3))',
      '  except XenvifError as error: print(error.reason, error.fields, error.code.name)',
    ].join('\n');
    const { stdout } = await python('-c', script);
    expect(stdout).toBe("MTU_OUT_OF_RANGE ['spec.mtu'] INVALID_ARGUMENT\n");
  });

  it('says in one line that there is no daemon', async () => {
    const nowhere = ['--address', `unix:${daemon.directory}/nobody.sock`];
    await expect(python('second_interface.py', '1', ...nowhere)).rejects.toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^second_interface: .*\(UNAVAILABLE\)\n$/),
    });
  });

  it('lists, updates with a mask, and repeats a call by its request id', async () => {
    const script = [
      'from xenvif import Client',
      'with Client() as client:',
      '  made = [client.VifService.CreateVif(domid=2, request_id="once").vif for _ in range(2)]',
      '  print(made[0].uid == made[1].uid)',
      '  vif = client.message("Vif", name=made[0].name, labels={"a": "b"})',
      '  mask = client.type_of("google.protobuf.FieldMask")(paths=["labels"])',
      '  print(dict(client.VifService.UpdateVif(vif=vif, update_mask=mask).vif.labels))',
      '  print([vif.name for vif in client.VifService.ListVifs(labels={"a": "b"}).vifs])',
      '  client.VifService.DeleteVif(name=made[0].name)',
    ].join('\n');
    const { stdout } = await python('-c', script);
    expect(stdout).toBe("True\n{'a': 'b'}\n['vifs/2.1']\n");
  });
});
