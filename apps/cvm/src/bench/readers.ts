import { spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PAGE_SIZE } from '@cvm/layout';
import { SectionType, StreamWriter } from '@cvm/qemu-mig';
import { verifyStream } from '@cvm/qemu-mig/image';
import { interpret } from './interpreted.js';

const TURNS = 3;
const CHUNK = 2 ** 20;

/** How `verify` reads a file, and what it is held against. Speeds are bytes per second, the best of some turns. */
export interface ReaderSpeeds {
	readonly what: string;
	readonly pages: number;
	readonly bytes: number;
	readonly verify: number;
	/** A reader that takes every field by itself. */
	readonly interpreted: number;
	/** `cat FILE | wc -c`. */
	readonly cat: number;
}

/** Streams of so many pages: of raw ones, which are bytes above all, and of zeros, which are records above all. */
const STREAMS = [
	{ what: 'raw pages', pages: 2 ** 16, zero: false },
	{ what: 'zero pages', pages: 2 ** 22, zero: true },
];

/** Measures both in turns, in a temporary folder. */
export async function measureReaders(streams: typeof STREAMS = STREAMS): Promise<ReaderSpeeds[]> {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-bench-'));
	try {
		const found: ReaderSpeeds[] = [];
		for (const { what, pages, zero } of streams) {
			const path = join(folder, 'stream');
			await writeStream(path, pages, zero);
			found.push({ what, pages, ...(await measure(path, pages)) });
		}
		return found;
	} finally {
		rmSync(folder, { recursive: true, force: true });
	}
}

/** One line for each. */
export const describeReaders = (speeds: readonly ReaderSpeeds[]): string[] =>
	speeds.map(({ what, pages, bytes, verify, interpreted, cat }) => {
		const rates = `${(verify / 1e6).toFixed(0)} MB/s, ${((pages * verify) / bytes / 1e6).toFixed(1)} million pages/s`;
		const ratios = `${(verify / interpreted).toFixed(1)} × a reader field by field, ${(verify / cat).toFixed(2)} × cat | wc -c`;
		return `stream verify, ${what}: ${rates}; ${ratios}`;
	});

async function writeStream(path: string, pages: number, zero: boolean): Promise<void> {
	const file = openSync(path, 'w');
	try {
		const writer = new StreamWriter({ write: (chunk) => void writeSync(file, chunk) });
		const section = { id: 2, idstr: 'ram', instanceId: 0, version: 4 };
		const body = (type: 1 | 2 | 3): void => {
			writer.endOfRecords();
			writer.sectionEnd({ ...section, type });
		};
		writer.header();
		writer.configuration({ machineType: 'none', subsections: [] });
		writer.sectionBegin({ ...section, type: SectionType.start });
		writer.blockList([{ idstr: 'pc.ram', usedLength: pages * PAGE_SIZE }]);
		body(SectionType.start);
		writer.sectionBegin({ ...section, type: SectionType.part });
		const page = randomFillSync(new Uint8Array(PAGE_SIZE));
		for (let i = 0; i < pages; i++) {
			if (zero) writer.zeroPage('pc.ram', i * PAGE_SIZE, 0);
			else writer.rawPage('pc.ram', i * PAGE_SIZE, page);
			if (i % 64 === 0) await writer.ready();
		}
		body(SectionType.part);
		writer.sectionBegin({ ...section, type: SectionType.end });
		body(SectionType.end);
		writer.eof();
		await writer.flush();
	} finally {
		closeSync(file);
	}
}

async function measure(path: string, pages: number): Promise<Omit<ReaderSpeeds, 'what' | 'pages'>> {
	const bytes = statSync(path).size;
	const best = { verify: 0, interpreted: 0, cat: 0 };
	const note = (name: keyof typeof best, begin: number): void => {
		best[name] = Math.max(best[name], (bytes * 1000) / (performance.now() - begin));
	};
	for (let turn = 0; turn < TURNS; turn++) {
		let begin = performance.now();
		const { complete, findings } = await verifyStream(chunks(path));
		note('verify', begin);
		if (!complete || findings.some(({ severity }) => severity === 'error')) throw new Error('bench: a bad stream');
		begin = performance.now();
		if (interpret(path) !== pages) throw new Error('bench: pages were lost');
		note('interpreted', begin);
		begin = performance.now();
		const { stdout } = spawnSync('sh', ['-c', 'cat "$1" | wc -c', 'sh', path], { encoding: 'utf8' });
		note('cat', begin);
		if (Number(stdout) !== bytes) throw new Error('bench: cat and wc do not agree with the file');
	}
	return { bytes, ...best };
}

function* chunks(path: string): Generator<Uint8Array, void, void> {
	const file = openSync(path, 'r');
	const buffer = new Uint8Array(CHUNK);
	try {
		for (let length = readSync(file, buffer); length > 0; length = readSync(file, buffer)) {
			yield buffer.subarray(0, length);
		}
	} finally {
		closeSync(file);
	}
}
