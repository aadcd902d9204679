// Writes one RAM block of a stream, whatever its encoding, as a raw file: node extract-ram.mjs FILE BLOCK OUT
import { createReadStream, createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createMemoryStore, dense, openImage, rawBlock } from '@cvm/qemu-mig/image';

const [file, block, out] = process.argv.slice(2);
const image = await openImage(createReadStream(file), { store: createMemoryStore() });
await pipeline(Readable.from(dense(rawBlock(image, block))), createWriteStream(out));
