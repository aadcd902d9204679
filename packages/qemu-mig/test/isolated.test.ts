import { fileURLToPath } from 'node:url';
import { createContext, runInContext } from 'node:vm';
import { build } from 'esbuild';
import { beforeAll, expect, it } from 'vitest';
import { contentStream, randomContent } from './image-fixtures.js';

/*
 * The package as a browser would get it, bundled, in a context that has nothing but ECMAScript: no Buffer, no process, no
 * timers, no require, not even the text codecs of the web.
 */

const source = (file: string): string => fileURLToPath(new URL(`../src/${file}`, import.meta.url));

let program = '';
beforeAll(async () => {
	const { outputFiles } = await build({
		stdin: {
			contents: `export * from ${JSON.stringify(source('index.ts'))}; export * from ${JSON.stringify(source('image.ts'))};`,
			resolveDir: source('.'),
		},
		bundle: true,
		write: false,
		format: 'iife',
		globalName: 'mig',
		platform: 'browser',
		conditions: ['@cvm/source'],
		logLevel: 'silent',
	});
	program = outputFiles[0]?.text ?? '';
});

/** What `script` gives, an async function's body that sees `mig` and the bytes of a stream. */
async function runIsolated(script: string, stream: Uint8Array): Promise<unknown> {
	const context = createContext({ length: stream.length });
	runInContext(program, context);
	// An array of the context's own: those of another realm are no instances of its classes.
	const data: Uint8Array = runInContext('globalThis.data = new Uint8Array(length)', context);
	data.set(stream);
	const json: unknown = await runInContext(
		`(async () => JSON.stringify(await (async () => { ${script} })()))()`,
		context,
	);
	return JSON.parse(String(json));
}

it('has no globals of Node', async () => {
	const names = "['Buffer', 'process', 'require', 'setTimeout', 'TextDecoder'].filter((name) => name in globalThis)";
	expect(await runIsolated(`return ${names}`, new Uint8Array(0))).toEqual([]);
});

it('pushes and pulls a stream', async () => {
	const content = randomContent(4, [6, 2]);
	const script = `
		const names = [];
		const reader = new mig.StreamReader({ dialect: 'qemu-7.2', handler: {
			sectionEnd: (section) => names.push(section.idstr),
		} });
		for (let at = 0; at < data.length; at += 999) reader.push(data.subarray(at, at + 999));
		reader.end();
		const types = new Set();
		for await (const event of mig.readStream([data], { dialect: 'auto' })) types.add(event.type);
		return { names, types: [...types] };`;
	const { names, types } = (await runIsolated(script, await contentStream(content))) as Record<string, string[]>;
	expect(names).toEqual(['ram', 'ram', 'ram', ...content.devices.map(({ idstr }) => idstr)]);
	expect(types).toEqual(expect.arrayContaining(['dialect', 'header', 'rawPage', 'vmDescription', 'end']));
});

it('checks a stream, reads its content and writes it in every encoding', async () => {
	const script = `
		const { findings, complete } = await mig.verifyStream(data);
		const image = await mig.openImage(data, { store: mig.createMemoryStore() });
		const results = {};
		for (const [name, options] of Object.entries({
			raw: {}, xbzrle: { encoding: 'xbzrle' }, zlib: { encoding: 'zlib' }, mapped: { encoding: 'mapped-ram', dialect: 'qemu-9' },
			multifd: { encoding: 'multifd', multifd: { compression: 'zstd' } }, libvirt: { libvirt: { xml: data.slice(0, 4), format: 'gzip' } },
		})) {
			const streams = [[], [], []];
			const sink = (i) => ({ write: (chunk) => { streams[i].push(chunk.slice()); } });
			await mig.writeImage(image, { main: sink(0), channel: (i) => sink(1 + i) }, options);
			const inputs = streams.filter((chunks) => chunks.length > 0).map((chunks) => ({ source: chunks }));
			const again = await mig.openImage(inputs, { store: mig.createMemoryStore() });
			results[name] = mig.diffImages(image, again).equal;
		}
		return { errors: findings.filter(({ severity }) => severity === 'error'), complete, results };`;
	expect(await runIsolated(script, await contentStream(randomContent(4, [6, 2])))).toEqual({
		errors: [],
		complete: true,
		results: { raw: true, xbzrle: true, zlib: true, mapped: true, multifd: true, libvirt: true },
	});
});

it('throws the typed errors that the package exports', async () => {
	const script = `
		const reader = new mig.StreamReader({ dialect: 'qemu-7.2', handler: {} });
		reader.push(data.subarray(0, 100));
		try { reader.end(); } catch (error) { return [mig.isStreamError(error), error.code]; }`;
	expect(await runIsolated(script, await contentStream(randomContent(4)))).toEqual([true, 'truncated']);
});
