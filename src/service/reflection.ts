/**
 * Server reflection from the descriptors that buf made of the .proto files. proto-loader would
 * merge files of a package into one and leave the imports out, and strict clients refuse that
 * (grpc-node issue 2595); so each of its entries gets the true files.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadFileDescriptorSetFromBuffer } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';

const protoRoot = new URL('../../proto/', import.meta.url);
/** Generated beside the .proto files: ours, and that of the health service. */
const DESCRIPTOR_SETS = ['xenvif.binpb', 'health.binpb'];
/** `FileDescriptorSet.file`: field 1, length-delimited. */
const TAG_FILE = 0x0a;

export function reflectionService(): ReflectionService {
  const sets = DESCRIPTOR_SETS.map((name) => readFileSync(fileURLToPath(new URL(name, protoRoot))));
  // Two encoded sets in a row are the encoding of the set that has the files of both.
  const set = Buffer.concat(sets);
  const definitions = loadFileDescriptorSetFromBuffer(set, { keepCase: true });
  const fileDescriptorProtos = splitFiles(set);
  for (const definition of Object.values(definitions)) {
    if ('fileDescriptorProtos' in definition) Object.assign(definition, { fileDescriptorProtos });
  }
  return new ReflectionService(definitions);
}

/** The encoded files of an encoded set, which is made of nothing else. */
function splitFiles(set: Buffer): Buffer[] {
  const files: Buffer[] = [];
  let position = 0;
  while (position < set.length) {
    if (set[position] !== TAG_FILE) throw new Error('The descriptor set is damaged.');
    let length = 0;
    let shift = 0;
    let byte: number;
    do {
      position += 1;
      byte = set[position] as number;
      length |= (byte & 0x7f) << shift;
      shift += 7;
    } while (byte >= 0x80);
    files.push(set.subarray(position + 1, position + 1 + length));
    position += 1 + length;
  }
  return files;
}
