import { expect, it } from 'vitest';
import { contentStream, createRandom, opened, randomContent, rewritten } from '../../test/image-fixtures.js';
import type { ImageInput } from '../image.js';
import { bytesSource, createMemoryStore, openImage, salvage, verifyStream } from '../image.js';

const TYPED = ['StreamError', 'CodecError', 'ImageError'];

/** Flips bits, cuts out, repeats or overwrites a piece. */
function damaged(data: Uint8Array, random: () => number): Uint8Array {
	const at = random() % data.length;
	const length = 1 + (random() % (random() % 4 === 0 ? 9000 : 30));
	const [before, middle, after] = [data.subarray(0, at), data.slice(at, at + length), data.subarray(at + length)];
	switch (random() % 5) {
		case 0:
			middle[0] = (middle[0] ?? 0) ^ (1 << (random() % 8));
			return Buffer.concat([before, middle, after]);
		case 1:
			return before;
		case 2:
			return Buffer.concat([before, after]);
		case 3:
			return Buffer.concat([before, middle, middle, after]);
		default:
			return Buffer.concat([before, middle.fill(random()), after]);
	}
}

it.each(['raw', 'xbzrle', 'zlib', 'multifd', 'mapped-ram', 'sealed', 'libvirt'])(
	'damage in a %s stream gives a typed error, a finding and a salvage, nothing else',
	async (kind) => {
		const sealed = kind === 'sealed';
		const image = await opened(await contentStream(randomContent(21, [30, 4]), sealed), {
			dialect: sealed ? 'sev-v4' : 'auto',
		});
		const encoding = ['sealed', 'libvirt'].includes(kind) ? 'raw' : kind;
		const { inputs } = await rewritten(image, {
			encoding: encoding as 'raw',
			...(kind === 'mapped-ram' ? { dialect: 'qemu-9' as const } : {}),
			...(kind === 'libvirt' ? { libvirt: { xml: Uint8Array.of(60), format: 'gzip' as const } } : {}),
		});
		const random = createRandom(kind.length * 131);
		for (let round = 0; round < (kind === 'mapped-ram' ? 25 : 120); round++) {
			const victim = random() % inputs.length;
			const broken: ImageInput[] = inputs.map((input, i) =>
				i === victim ? { source: damaged(input.source as Uint8Array, random) } : input,
			);
			try {
				await openImage(broken, { store: createMemoryStore({ limit: 2 ** 24 }) });
			} catch (error) {
				expect(TYPED, String(error)).toContain((error as Error).name);
			}
			await verifyStream(broken);
			const [main, ...channels] = broken;
			try {
				const source = bytesSource(main?.source as Uint8Array);
				await salvage(source, { store: createMemoryStore(), channels: channels.filter((_, i) => i !== victim - 1) });
			} catch (error) {
				expect(['CodecError', 'ImageError'], String(error)).toContain((error as Error).name);
			}
		}
	},
);
