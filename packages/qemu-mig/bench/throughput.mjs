// How fast streams are read and checked, against `cat FILE | wc -c` in the same run, and how much memory a stream from a
// pipe needs. Build the package first:
//   pnpm --filter @cvm/qemu-mig build && node packages/qemu-mig/bench/throughput.mjs [MiB of the file] [MiB through the pipe]
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { StreamReader, StreamWriter } from '@cvm/qemu-mig';
import { openImage, verifyStream } from '@cvm/qemu-mig/image';

const PAGE = 4096;
const MIB = 2 ** 20;
const self = fileURLToPath(import.meta.url);

/** Writes a stream of a guest with so many MiB of RAM, none of it zero, to standard output. */
async function generate(mib) {
	const ram = { type: 1, id: 2, idstr: 'ram', instanceId: 0, version: 4 };
	const writer = new StreamWriter({
		write: (chunk) => {
			for (let at = 0; at < chunk.length; ) at += writeSync(1, chunk, at);
		},
	});
	writer.header();
	writer.configuration({ machineType: 'pc-q35-7.2', subsections: [] });
	writer.sectionBegin(ram);
	writer.blockList([{ idstr: 'pc.ram', usedLength: mib * MIB }]);
	writer.endOfRecords();
	writer.sectionEnd(ram);
	const pages = Array.from({ length: 256 }, (_, i) => new Uint8Array(PAGE).fill(i ^ 0x5a, 0, PAGE - 8));
	pages[0x5a].fill(1);
	const part = { ...ram, type: 2 };
	for (let page = 0; page < (mib * MIB) / PAGE; ) {
		writer.sectionBegin(part);
		for (let i = 0; i < 1024 && page < (mib * MIB) / PAGE; i++, page++) {
			writer.rawPage('pc.ram', page * PAGE, pages[page % 256]);
		}
		writer.endOfRecords();
		writer.sectionEnd(part);
		await writer.flush();
	}
	const end = { ...ram, type: 3 };
	writer.sectionBegin(end);
	writer.endOfRecords();
	writer.sectionEnd(end);
	writer.eof();
	await writer.flush();
}

/** Standard input in one buffer that is used again. */
function* input() {
	const buffer = new Uint8Array(MIB);
	for (;;) {
		const length = readSync(0, buffer);
		if (length === 0) return;
		yield buffer.subarray(0, length);
	}
}

const readers = {
	read: () => {
		let pages = 0;
		const reader = new StreamReader({ dialect: 'qemu-7.2', handler: { rawPage: () => (pages += 1) } });
		for (const chunk of input()) reader.push(chunk);
		reader.end();
		return pages;
	},
	open: async () => (await openImage(input())).counts.raw,
	verify: async () => {
		const { image, complete } = await verifyStream(input());
		if (!complete) throw new Error('the stream was not read to its end');
		return image.counts.raw;
	},
};

/** Runs a command line of the shell. */
function shell(line) {
	const begin = process.hrtime.bigint();
	const { status, stdout, stderr } = spawnSync('sh', ['-c', line], { encoding: 'utf8' });
	if (status !== 0) throw new Error(`${line}: ${stderr}`);
	return { stdout, seconds: Number(process.hrtime.bigint() - begin) / 1e9 };
}

function main(fileMib, pipeMib) {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-bench-'));
	const program = `'${process.execPath}' '${self}'`;
	try {
		const file = join(folder, 'stream.qevm');
		shell(`${program} generate ${fileMib} > '${file}'`);
		shell(`cat '${file}' | wc -c`); // into the page cache
		const best = (line) => Math.min(...[1, 2, 3].map(() => line()));
		const cat = best(() => shell(`cat '${file}' | wc -c`).seconds);
		const rate = (seconds) => `${Math.round((fileMib * MIB) / 1e6 / seconds)} MB/s`;
		console.log(`cat FILE | wc -c: ${rate(cat)}`);
		for (const name of Object.keys(readers)) {
			const own = best(() => JSON.parse(shell(`cat '${file}' | ${program} ${name}`).stdout).seconds);
			console.log(`${name}: ${rate(own)} of raw pages, ${(cat / own).toFixed(2)} of cat`);
		}
	} finally {
		rmSync(folder, { recursive: true });
	}
	for (const name of Object.keys(readers)) {
		const { pages, peakMib } = JSON.parse(shell(`${program} generate ${pipeMib} | ${program} ${name}`).stdout);
		if (pages !== (pipeMib * MIB) / PAGE) throw new Error(`${name}: ${pages} pages`);
		console.log(`${name}: ${pipeMib} MiB from a pipe, peak RSS ${peakMib} MiB`);
	}
}

const [mode = '512', value = '4096'] = process.argv.slice(2);
if (mode === 'generate') await generate(Number(value));
else if (mode in readers) {
	const begin = process.hrtime.bigint();
	const pages = await readers[mode]();
	const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
	const peakMib = Math.round(process.resourceUsage().maxRSS / 1024);
	console.log(JSON.stringify({ pages, seconds, peakMib }));
} else main(Number(mode), Number(value));
