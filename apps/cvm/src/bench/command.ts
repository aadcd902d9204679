import { cpus } from 'node:os';
import { Command } from 'commander';
import { FAILED } from '../exit.js';
import { describeDirty, measureDirty } from './dirty.js';
import { measureHelper } from './helper.js';
import { prepareFirmware } from './layers.js';
import { describeMailbox, measureMailbox } from './mailbox.js';
import { opensslSpeed, YARDSTICKS, type Yardstick, yardstickRun } from './openssl.js';
import { describeReaders, measureReaders } from './readers.js';
import { measureStream } from './stream.js';
import { measureWhole, WHOLE, wholeOptions } from './whole.js';

const PAGE = 4096;
const MIB = 2 ** 20;

/** One line of the table. */
interface Row {
	readonly what: string;
	readonly pages: number;
	readonly against: Yardstick;
}

/** Turns of the yardsticks and what is held against them. A machine is not equally fast at all times. */
const TURNS = 3;

/** The best of several turns for the yardsticks, bytes per second, and for the firmware, pages per second. */
function measureInTurns() {
	const firmware = prepareFirmware();
	const best = { engine: 0, launch: 0, send: 0, receive: 0, seal: 0, open: 0 };
	const speeds: Partial<Record<Yardstick, number>> = {};
	for (let turn = 0; turn < TURNS; turn++) {
		for (const name of YARDSTICKS) {
			const speed = opensslSpeed(name);
			if (speed !== undefined) speeds[name] = Math.max(speeds[name] ?? 0, speed);
		}
		for (const name of ['engine', 'launch', 'send', 'receive'] as const) {
			best[name] = Math.max(best[name], firmware[name]());
		}
		const { seal, open } = measureHelper();
		best.seal = Math.max(best.seal, seal);
		best.open = Math.max(best.open, open);
	}
	return { speeds, ...best };
}

/** `cvm bench`: every figure is a ratio to OpenSSL on the same machine in the same run. */
export function benchCommand(exit: (code: number) => void): Command {
	return new Command('bench')
		.description('measure each layer and whole migrations, as ratios to OpenSSL in the same run')
		.option('--memory <size>', 'guest RAM of the whole migrations', '256M')
		.option('--quick', 'the layers only')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm bench --memory 512M\n')
		.action(async (options: { memory: string; quick?: boolean; json?: boolean }) => {
			// A mistake is told before minutes of work.
			const whole = (Object.keys(WHOLE) as (keyof typeof WHOLE)[]).map((mode) => wholeOptions(mode, options.memory));
			if (opensslSpeed('aes-128-ecb') === undefined) {
				process.stderr.write('cvm: bench: no `openssl` program found: ratios are left out\n');
				exit(FAILED);
			}
			const { speeds, engine, launch, send, receive, seal, open } = measureInTurns();
			const { write, read } = measureStream();
			const rows: Row[] = [
				{ what: 'page engine (XEX encrypt)', pages: engine, against: 'aes-128-ecb' },
				{ what: 'PSP LAUNCH_UPDATE_DATA', pages: launch, against: 'aes-128-gcm' },
				{ what: 'PSP SEND_UPDATE_DATA', pages: send, against: 'aes-128-gcm' },
				{ what: 'PSP RECEIVE_UPDATE_DATA', pages: receive, against: 'aes-128-gcm' },
				{ what: 'helper seal (64 pages)', pages: seal, against: 'aes-256-gcm-16k' },
				{ what: 'helper open (64 pages)', pages: open, against: 'aes-256-gcm-16k' },
				{ what: 'stream write (raw pages)', pages: write, against: 'aes-128-ecb' },
				{ what: 'stream read (raw pages)', pages: read, against: 'aes-128-ecb' },
			];
			const dirty = await measureDirty();
			const readers = await measureReaders();
			const mailbox = await measureMailbox();
			const notes = [...describeDirty(dirty), ...describeReaders(readers), ...describeMailbox(mailbox)];
			for (const demo of options.quick ? [] : whole) {
				const { mode } = demo;
				const result = await measureWhole(demo);
				rows.push({ what: `whole migration, ${mode}`, pages: result.pagesPerSecond, against: WHOLE[mode] });
				const peaks = Object.entries(result.peaks).map(
					([name, bytes]) => `${name} RAM + ${((bytes - result.memory) / MIB).toFixed(0)} MiB`,
				);
				notes.push(`${mode}: downtime ${result.downtime} ms; memory: ${peaks.join(', ')}`);
			}
			const ratio = ({ pages, against }: Row) => {
				const speed = speeds[against];
				return speed === undefined ? undefined : (pages * PAGE) / speed;
			};
			if (options.json) {
				const results = rows.map((row) => ({ ...row, 'bytes-per-second': row.pages * PAGE, ratio: ratio(row) }));
				process.stdout.write(
					`${JSON.stringify({ cpu: cpus()[0]?.model, node: process.version, openssl: speeds, results, dirty, readers, mailbox, notes }, null, 2)}\n`,
				);
				return;
			}
			process.stdout.write(`${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}\n`);
			for (const name of YARDSTICKS) {
				const speed = speeds[name];
				const { cipher, bytes } = yardstickRun(name);
				if (speed)
					process.stdout.write(
						`openssl speed -evp ${cipher}, ${bytes / 1024} KiB blocks, one core: ${(speed / 1e6).toFixed(0)} MB/s\n`,
					);
			}
			process.stdout.write(`\n${'what'.padEnd(28)}${'pages/s'.padStart(10)}${'MB/s'.padStart(8)}   ratio\n`);
			for (const row of rows) {
				const r = ratio(row);
				const shown = r === undefined ? '' : `${(100 * r).toFixed(1)} % of ${row.against}`;
				process.stdout.write(
					`${row.what.padEnd(28)}${row.pages.toFixed(0).padStart(10)}${((row.pages * PAGE) / 1e6).toFixed(0).padStart(8)}   ${shown}\n`,
				);
			}
			for (const note of notes) process.stdout.write(`${note}\n`);
		});
}
