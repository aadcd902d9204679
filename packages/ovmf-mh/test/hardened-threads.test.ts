import { describe, expect, it } from 'vitest';
import { createHelperHost } from '../src/host/index.js';
import { GPA_LIST_OFFSET, HelperCommand, HelperStatus } from '../src/mailbox/abi.js';
import { connect, guestPage, memoryOf, migrate, pagesOf, populate, RAM } from './hardened-couriers.js';
import { createMachine, PAGE } from './hardened-rig.js';
import { startHelpers, waiting } from './hardened-threads.js';

describe('the hardened helper with a thread for each mirror vCPU', () => {
	it('moves a guest between two machines with two helpers each', async () => {
		const options = { ram: RAM, helpers: 2, hasWorkers: true } as const;
		const source = createMachine({ ...options, seed: 'source', role: 'source' });
		const target = createMachine({ ...options, seed: 'target', role: 'target' });
		const stops = await Promise.all([source, target].map(startHelpers));
		populate(source, pagesOf(RAM));
		const link = connect(source, target, waiting);
		await link.targetHost.awaitReady();
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(target), memory)).toBe(0);
		expect(link.runs).toBe(1);
		const ended = (await Promise.all(stops.map((stop) => stop()))).flat();
		expect(ended.map(({ ret, fault }) => [ret, fault])).toEqual(ended.map(() => [-4, undefined]));
	});

	it('K11: seals the page that its record names, under a host that changes the list all the time', async () => {
		const source = createMachine({ seed: 'source', role: 'source', ram: RAM, hasWorkers: true });
		const target = createMachine({ seed: 'target', role: 'target', ram: RAM });
		const stop = await startHelpers(source);
		const pages = pagesOf(RAM).filter((gpa) => (gpa / PAGE) % 8 !== 5);
		populate(source, pages);
		const [port] = source.ports;
		if (port === undefined) throw new Error('no helper');
		const list = new DataView(port.mailbox.buffer, port.mailbox.byteOffset + GPA_LIST_OFFSET);
		let candidates: readonly [number, number] = [0, 0];
		let flips = 0;
		const flip = (): void => list.setUint32(0, candidates[flips++ & 1] ?? 0, true);
		const link = connect(source, target, { ...waiting, wait: flip }, {});
		await link.sourceHost.awaitReady();
		await link.helper.open(link.peer);
		const [from, to] = [link.sourceHost.channels[0], link.targetHost.channels[0]];
		if (from === undefined || to === undefined) throw new Error('no channel');
		const taken = [0, 0];
		for (let i = 0; i + 1 < pages.length; i += 2) {
			candidates = [pages[i] ?? 0, pages[i + 1] ?? 0];
			from.post({ nr: HelperCommand.save, gpas: Float64Array.of(candidates[0]), count: 1 });
			expect(link.sourceHost.answerOf(from).status).toBe(HelperStatus.success);
			const header = from.header();
			const body = new Uint8Array(PAGE);
			from.copyBodies(body);
			const gpa = new DataView(header.buffer, header.byteOffset).getUint32(0x48, true);
			const which = candidates.indexOf(gpa);
			taken[which] = (taken[which] ?? 0) + 1;
			to.post({ nr: HelperCommand.restore, gpas: Float64Array.of(gpa), count: 1, header, input: body });
			expect(link.targetHost.answerOf(to).status).toBe(HelperStatus.success);
			expect(Buffer.compare(target.read(gpa, PAGE), guestPage(gpa, 1))).toBe(0);
		}
		expect((taken[0] ?? 0) + (taken[1] ?? 0)).toBe(Math.floor(pages.length / 2));
		expect(flips).toBeGreaterThan(0);
		await stop();
	});

	it('is woken by its host when it sleeps', async () => {
		const machine = createMachine({ seed: 'sleeper', role: 'source', ram: RAM, hasWorkers: true });
		const stop = await startHelpers(machine);
		const host = createHelperHost({ helpers: machine.ports, ...waiting });
		await host.awaitReady();
		const words = new Int32Array(machine.ports[0]?.mailbox.buffer ?? new ArrayBuffer(0));
		const asleep = ((machine.ports[0]?.mailbox.byteOffset ?? 0) + 0x3c) / 4;
		while (Atomics.load(words, asleep) === 0) await waiting.pause();
		expect(machine.kicks).toEqual([0]);
		host.control(HelperCommand.query);
		expect(machine.kicks).toEqual([1]);
		await stop();
	});
});
