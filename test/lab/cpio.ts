/**
 * Writes the archive that Linux unpacks as its first root file system: cpio in the "newc" form.
 *
 * Only what an initrd needs: directories, regular files and symbolic links, all owned by root.
 * Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
 */

export type CpioEntry =
  | { readonly path: string; readonly data: Uint8Array; readonly executable?: boolean }
  | { readonly path: string; readonly linkTo: string }
  | { readonly path: string; readonly directory: true };

const ALIGNMENT = 4;
const DIRECTORY = 0o040_755;
const FILE = 0o100_644;
const EXECUTABLE = 0o100_755;
const LINK = 0o120_777;

/** Returns the archive; parent directories that no entry names are made. */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const seen = new Set<string>();
  let inode = 1;

  const push = (path: string, mode: number, data: Uint8Array): void => {
    const name = Buffer.from(`${path}\0`);
    // Magic, then inode, mode, uid, gid, nlink, mtime, filesize, four device numbers, namesize, check.
    const fields = [inode++, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(Buffer.from(data)));
  };
  const pushDirectory = (path: string): void => {
    if (path === '' || path === '.' || seen.has(path)) return;
    pushDirectory(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    seen.add(path);
    push(path, DIRECTORY, Buffer.alloc(0));
  };

  for (const entry of entries) {
    const path = entry.path.replace(/^\/+/, '');
    if ('directory' in entry) {
      pushDirectory(path);
      continue;
    }
    pushDirectory(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    if ('linkTo' in entry) push(path, LINK, Buffer.from(entry.linkTo));
    else push(path, entry.executable === true ? EXECUTABLE : FILE, entry.data);
  }
  push('TRAILER!!!', 0, Buffer.alloc(0));
  return Buffer.concat(parts);
}

function padded(bytes: Buffer): Buffer {
  const rest = bytes.length % ALIGNMENT;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(ALIGNMENT - rest)]);
}
