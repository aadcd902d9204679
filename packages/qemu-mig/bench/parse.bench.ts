import { PAGE_SIZE } from '@cvm/layout';
import { bench, describe } from 'vitest';
import { SealedBatch, StreamReader, StreamWriter } from '../src/index.js';
import { TOY_PREFIX } from '../src/testing.js';
import { beginStream, page, ramPart, written } from '../test/streams.js';

const PAGES = 16384;
const CHUNK = 1 << 20;
const raw = await written((w) => {
	beginStream(w, PAGES);
	w.sectionBegin(ramPart);
	for (let i = 0; i < PAGES; i++) w.rawPage('pc.ram', i * PAGE_SIZE, page(i & 0xff));
});
const sealed = await written((w) => {
	beginStream(w, PAGES);
	w.sectionBegin(ramPart);
	const header = new Uint8Array(52);
	for (let i = 0; i < PAGES; i++)
		w.encryptedPage('pc.ram', i * PAGE_SIZE, header, page(i & 0xff), i === 0 ? TOY_PREFIX : undefined);
});
const copy = new Uint8Array(raw.length);
let touched = 0;

const parse = (data: Uint8Array, chunk: number): void => {
	const reader = new StreamReader({
		dialect: 'sev-v4',
		handler: {
			rawPage: (_block, _address, bytes) => {
				touched += bytes[0] ?? 0;
			},
			encryptedPage: (_block, _address, _header, bytes) => {
				touched += bytes[0] ?? 0;
			},
		},
	});
	for (let at = 0; at < data.length; at += chunk) reader.push(data.subarray(at, at + chunk));
	if (touched < 0) throw new Error('the handlers were not called');
};

describe('64 MiB of guest memory', () => {
	bench('one memory copy', () => copy.set(raw));
	bench('raw pages, chunks of 1 MiB', () => parse(raw, CHUNK));
	bench('raw pages, chunks of 64 KiB', () => parse(raw, 1 << 16));
	bench('sealed pages, chunks of 64 KiB', () => parse(sealed, 1 << 16));
	bench('writing raw pages', () => {
		const writer = new StreamWriter({ write: () => {} });
		for (let i = 0; i < PAGES; i++)
			writer.rawPage('pc.ram', i * PAGE_SIZE, raw.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
	});
	const batch = new SealedBatch(new Uint8Array(64 * SealedBatch.stride(52)), 52, 64);
	bench('laying out sealed pages in batches of 64', () => {
		const writer = new StreamWriter({ write: () => {} });
		for (let i = 0; i < PAGES; i += 64) {
			for (let j = 0; j < 64; j++) batch.add(i + j);
			writer.sealedBatch('pc.ram', batch);
			batch.count = 0;
		}
	});
});
