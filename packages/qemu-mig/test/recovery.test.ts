import { PAGE_SIZE, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { sameMemory, TWO_BLOCKS } from './migration.js';
import { HUGE, MOVE, type PostcopySetup, postcopy } from './postcopy-link.js';

const WRITES = Array.from({ length: 12 }, (_, i) => ({ block: i % 2, page: (i * 37) % 33, byte: i + 1 }));
const parameters = { maxBandwidth: 600_000, downtimeLimit: 1, maxPostcopyBandwidth: 600_000 };

/** Bytes up to the end of the package, and in all, of an undisturbed migration. */
async function lengths(o: PostcopySetup): Promise<{ running: number; total: number }> {
	let running = 0;
	const { run, links, loader } = postcopy({
		...o,
		target: {
			status: (status) => {
				if (status === 'postcopy-active') running = loader.progress.bytes;
			},
		},
	});
	await run();
	return { running, total: links[0]?.bytes ?? 0 };
}

describe('postcopy whose connection breaks', () => {
	it('pauses on both sides, and goes on over another connection with what is missing', async () => {
		const o = { source: { parameters }, writes: WRITES, turns: 1 };
		const { running, total } = await lengths(o);
		const cut = running + Math.floor((total - running) / 3);
		const { run, log, statuses, target, expected, precopy, links, waiting } = postcopy({ ...o, cuts: [cut] });
		expect(await run()).toEqual({ status: 'completed' });
		expect(log.slice(log.indexOf('finish'))).toEqual([
			'finish',
			'postcopy-paused',
			'postcopy-recover',
			'postcopy-active',
			'completed',
		]);
		expect(statuses).toEqual([
			'postcopy-active',
			'postcopy-paused',
			'postcopy-recover',
			'postcopy-active',
			'completed',
		]);
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(waiting).toEqual([]);
		// What arrived before the cut is not sent again.
		expect(links[1]?.bytes).toBeLessThan(total - cut + 2 * PAGE_SIZE);
		expect(precopy.statistics.info().ram?.remaining).toBe(0);
	});

	it('begins the new connection with a request for each block’s bitmap', async () => {
		const { running } = await lengths({ turns: 1 });
		const { run, links } = postcopy({ turns: 1, cuts: [running + 3 * PAGE_SIZE] });
		expect(await run()).toEqual({ status: 'completed' });
		// COMMAND RECV_BITMAP "pc.ram", then "pc.bios", then RESUME.
		const head = toHex(Uint8Array.from(links[1]?.head ?? []));
		expect(head).toMatch(/^08000a00070670632e72616d08000a00080770632e62696f730800090000/);
	});

	it('survives a new connection that breaks, too, at any of several places', async () => {
		const o = { source: { parameters }, writes: WRITES, turns: 1 };
		const { running } = await lengths(o);
		for (const second of [0, 10, 30, 60, 5000]) {
			const cuts = [running + 20_000, second, second + 1];
			const { run, target, expected, waiting } = postcopy({ ...o, cuts });
			expect(await run()).toEqual({ status: 'completed' });
			expect(sameMemory(target.memory, expected)).toBe(true);
			expect(waiting).toEqual([]);
		}
	});

	it('asks again for what the guest still waits for', async () => {
		const { running } = await lengths({ turns: 1 });
		const { loader, precopy, target, reconnect } = postcopy({ turns: 1, cuts: [running + 100] });
		const ended = precopy.run();
		while (precopy.statistics.status !== 'postcopy-paused') await new Promise((resolve) => setImmediate(resolve));
		expect([loader.fault(1, 32), loader.fault(1, 32)]).toEqual([true, true]);
		const order: number[] = [];
		target.onPlaced = (block, address) => order.push(block * 1000 + address / PAGE_SIZE);
		reconnect();
		expect(await ended).toEqual({ status: 'completed' });
		expect(precopy.statistics.info().ram?.['postcopy-requests']).toBe(1);
		expect(order.indexOf(1032)).toBeLessThan(order.length - 1);
	});

	it('is abandoned on request, and the source must not run then', async () => {
		const { running } = await lengths({ turns: 1 });
		const { precopy, loader } = postcopy({ turns: 1, cuts: [running + 100] });
		expect([precopy.recover({ write: () => {} }), precopy.abandon()]).toEqual([false, false]);
		const ended = precopy.run();
		while (precopy.statistics.status !== 'postcopy-paused') await new Promise((resolve) => setImmediate(resolve));
		expect(loader.status).toBe('postcopy-paused');
		loader.push(Uint8Array.of(1, 2, 3));
		expect(precopy.abandon()).toBe(true);
		expect(await ended).toMatchObject({ status: 'failed', stopped: true, mayResume: false });
	});

	it('fails when the target lacks a page that was given back', async () => {
		const capabilities = { postcopyRam: true, releaseRam: true };
		const { running } = await lengths({ turns: 1 });
		const { precopy, loader, source } = postcopy({
			turns: 1,
			source: { capabilities, parameters },
			cuts: [running + 30 * PAGE_SIZE],
		});
		const ended = precopy.run();
		while (precopy.statistics.status !== 'postcopy-paused') await new Promise((resolve) => setImmediate(resolve));
		expect(source.released.length).toBeGreaterThan(0);
		const [first] = source.released;
		const page = Number(first?.split(':')[1]?.split('+')[0]);
		const bitmap = (idstr: string, pages: number, missing: number): Uint8Array => {
			const bytes = new Uint8Array(Math.ceil(pages / 64) * 8).fill(0xff);
			if (missing >= 0) bytes[missing >>> 3] = 0xff & ~(1 << (missing & 7));
			const name = new TextEncoder().encode(idstr);
			const end = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
			const size = [0, 0, 0, 0, 0, 0, 0, bytes.length];
			return Uint8Array.from([0, 5, 0, name.length + 1, name.length, ...name, ...size, ...bytes, ...end]);
		};
		expect(precopy.recover({ write: () => {} })).toBe(true);
		await new Promise((resolve) => setImmediate(resolve));
		precopy.returnPath.push(bitmap('pc.ram', 100, page));
		expect(await ended).toMatchObject({ status: 'failed', error: { code: 'target' }, mayResume: false });
		expect(loader.status).toBe('postcopy-paused');
	});

	it('pauses when the target’s bitmap has another size', async () => {
		const { running } = await lengths({ turns: 1 });
		const { precopy } = postcopy({ turns: 1, cuts: [running + 100] });
		const ended = precopy.run();
		const paused = async () => {
			while (precopy.statistics.status !== 'postcopy-paused') await new Promise((resolve) => setImmediate(resolve));
		};
		await paused();
		precopy.recover({ write: () => {} });
		await new Promise((resolve) => setImmediate(resolve));
		const end = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
		const name = new TextEncoder().encode('pc.ram');
		const short = [0, 5, 0, 7, 6, ...name, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, ...end];
		precopy.returnPath.push(Uint8Array.from(short));
		await paused();
		precopy.abandon();
		expect(await ended).toMatchObject({ status: 'failed' });
	});
});

const setup = fc.record({
	...MOVE,
	xbzrle: fc.boolean(),
	cuts: fc.array(fc.nat(600_000), { maxLength: 4 }),
});

describe('a guest that moves by postcopy', () => {
	test.prop([setup], { numRuns: 80 })(
		'ends with its memory and its own writes, or stays, wherever it is cut',
		async (o) => {
			const { helper, huge, xbzrle, releaseRam, turns, maxPostcopyBandwidth, writes, cuts } = o;
			const { run, target, expected, waiting, loader, log } = postcopy({
				helper,
				blocks: huge && !helper ? HUGE : TWO_BLOCKS,
				turns,
				writes,
				cuts,
				source: {
					capabilities: { postcopyRam: true, xbzrle, releaseRam },
					parameters: { maxBandwidth: 600_000, downtimeLimit: 1, maxPostcopyBandwidth },
				},
			});
			const result = await run();
			if (result.status === 'completed') {
				expect(await loader.outcome).toMatchObject({ status: 'running' });
				if (expected.length > 0) expect(sameMemory(target.memory, expected)).toBe(true);
				expect(waiting).toEqual([]);
				return;
			}
			// Only before the guest ran there, or when the very command to run was cut, or a page given back was lost.
			const lost = result.status === 'failed' && result.error.message.startsWith('release-ram');
			expect(log.includes('finish')).toBe(lost);
			if (!lost) expect(await loader.outcome).toMatchObject({ status: 'failed', error: { code: 'truncated' } });
			expect(cuts).not.toEqual([]);
		},
	);

	test.prop([fc.integer({ min: -30, max: 30 })], { numRuns: 30 })(
		'runs in one place only when cut around the command to run',
		async (offset) => {
			const { running } = await lengths({ turns: 1 });
			const { run, log } = postcopy({ turns: 1, cuts: [running + offset] });
			const result = await run();
			const there = log.includes('finish');
			const here = result.status === 'failed' && result.mayResume;
			expect([there, here]).not.toEqual([true, true]);
			if (there) expect(result).toEqual({ status: 'completed' });
		},
	);
});
