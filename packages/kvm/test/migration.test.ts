import { type Hva, hva } from '@cvm/layout';
import { GuestState, Policy, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import type { HostMapping, KvmAbi, Vm } from '../src/index.js';
import { bootHost, certificatesOf, count, decrypted, type Host, PAGE, pattern, runningVm, vmWithRam } from './host.js';

const BYTES = 64 * 1024;
const GEOMETRY = { headerAt: 0, payloadAt: 64, stride: 64 + PAGE };
const pagesOf = (ram: HostMapping): Hva[] =>
	Array.from({ length: ram.bytes.length / PAGE }, (_, i) => hva(ram.hva + i * PAGE));

/** A running guest on one host, in SEND, and its receiver on another, in RECEIVE. */
function connected(policy = 0, abi: KvmAbi = 'upstream') {
	const source = bootHost({ seed: 'source', abi });
	const target = bootHost({ seed: 'target', abi });
	const from = runningVm(source, policy, BYTES);
	const to = vmWithRam(target, BYTES);
	const start = from.vm.sev.sendStart(certificatesOf(target));
	const { pdhCert } = certificatesOf(source);
	const receive = to.vm.sev.receiveStart({ policy: start.policy, pdhCert, session: start.session });
	return { source, target, from, to, start, receive };
}

const packetBuffer = (host: Host, pages: number) => host.kvm.memory.mmap(pages * GEOMETRY.stride);

describe('migration through the ioctls of two hosts', () => {
	it.each(['v12', 'upstream'] as const)('carries all memory over page by page (%s)', (abi) => {
		const { target, from, to, start, receive } = connected(Policy.SEV, abi);
		expect(start).toMatchObject({ ret: 0, error: 0, policy: Policy.SEV, sessionLen: 128 });
		expect(receive).toEqual({ ret: 0, error: 0 });
		const targets = pagesOf(to.ram);
		for (const [i, guestUaddr] of pagesOf(from.ram).entries()) {
			const { header, data } = from.vm.sev.sendUpdateData({ guestUaddr, guestLen: PAGE });
			const packet = { header, data, guestUaddr: targets[i] ?? hva(0), guestLen: PAGE };
			expect(to.vm.sev.receiveUpdateData(packet)).toEqual({ ret: 0, error: 0 });
		}
		expect(from.vm.sev.sendFinish()).toEqual({ ret: 0, error: 0 });
		expect(to.vm.sev.receiveFinish()).toEqual({ ret: 0, error: 0 });
		expect(decrypted(target, to.vm, to.ram)).toEqual(pattern(BYTES));
		expect(to.ram.bytes).not.toEqual(pattern(BYTES));
		expect(from.vm.sev.guestStatus().state).toBe(GuestState.SENT);
		expect(to.vm.sev.guestStatus()).toMatchObject({ ret: 0, policy: Policy.SEV, state: GuestState.RUNNING });
	});

	it('carries all memory over in batches, in one firmware call each', () => {
		const { source, target, from, to } = connected();
		const [out, input] = [packetBuffer(source, 16), packetBuffer(target, 16)];
		const sent = from.vm.sev.sendUpdateDataBatch(pagesOf(from.ram), 16, out.bytes, GEOMETRY);
		input.bytes.set(out.bytes);
		const received = to.vm.sev.receiveUpdateDataBatch(pagesOf(to.ram), 16, input.bytes, GEOMETRY);
		expect([sent, received]).toEqual([
			{ ret: 0, error: 0, done: 16 },
			{ ret: 0, error: 0, done: 16 },
		]);
		expect([count(source, 'SEND_UPDATE_DATA'), count(target, 'RECEIVE_UPDATE_DATA')]).toEqual([1, 1]);
		to.vm.sev.receiveFinish();
		expect(decrypted(target, to.vm, to.ram)).toEqual(pattern(BYTES));
	});

	it('carries more pages than one firmware batch has command buffers', () => {
		const { source, target, from, to } = connected();
		const many = 300;
		const [out, input] = [packetBuffer(source, many), packetBuffer(target, many)];
		const cycle = (ram: HostMapping) => Array.from({ length: many }, (_, i) => hva(ram.hva + (i % 16) * PAGE));
		expect(from.vm.sev.sendUpdateDataBatch(cycle(from.ram), many, out.bytes, GEOMETRY).done).toBe(many);
		input.bytes.set(out.bytes);
		expect(to.vm.sev.receiveUpdateDataBatch(cycle(to.ram), many, input.bytes, GEOMETRY).done).toBe(many);
		expect(decrypted(target, to.vm, to.ram)).toEqual(pattern(BYTES));
	});

	it('makes the same packets in a batch as one by one', () => {
		const [single, batch] = [connected(), connected()];
		const out = packetBuffer(batch.source, 16);
		batch.from.vm.sev.sendUpdateDataBatch(pagesOf(batch.from.ram), 16, out.bytes, GEOMETRY);
		for (const [i, guestUaddr] of pagesOf(single.from.ram).entries()) {
			const { header, data } = single.from.vm.sev.sendUpdateData({ guestUaddr, guestLen: PAGE });
			const at = i * GEOMETRY.stride;
			expect(out.bytes.slice(at, at + 52)).toEqual(header);
			expect(out.bytes.slice(at + 64, at + 64 + PAGE)).toEqual(data);
		}
	});

	it('stops a batch at the packet whose MAC is wrong, with the pages before it in place', () => {
		const { source, target, from, to } = connected();
		const [out, input] = [packetBuffer(source, 16), packetBuffer(target, 16)];
		from.vm.sev.sendUpdateDataBatch(pagesOf(from.ram), 16, out.bytes, GEOMETRY);
		input.bytes.set(out.bytes);
		const at = 5 * GEOMETRY.stride + GEOMETRY.payloadAt;
		input.bytes[at] = (input.bytes[at] ?? 0) ^ 1;
		expect(to.vm.sev.receiveUpdateDataBatch(pagesOf(to.ram), 16, input.bytes, GEOMETRY)).toEqual({
			ret: -5,
			error: Status.BAD_MEASUREMENT,
			done: 5,
		});
		const plain = decrypted(target, to.vm, to.ram);
		expect(plain.slice(0, 5 * PAGE)).toEqual(pattern(5 * PAGE));
		expect(to.ram.bytes.slice(5 * PAGE).every((b) => b === 0)).toBe(true);
	});

	it('stops a batch at a page that is not mapped, with the packets before it made', () => {
		const { source, from } = connected();
		const out = packetBuffer(source, 3);
		const pages = [...pagesOf(from.ram).slice(0, 2), hva(0x1000)];
		expect(from.vm.sev.sendUpdateDataBatch(pages, 3, out.bytes, GEOMETRY)).toEqual({ ret: -12, error: 0, done: 2 });
		expect(out.bytes.slice(0, 52).some((b) => b !== 0)).toBe(true);
		expect(out.bytes.slice(2 * GEOMETRY.stride).every((b) => b === 0)).toBe(true);
	});

	it.each<[string, (vm: Vm, ram: HostMapping, out: Uint8Array) => { ret: number }, number]>([
		[
			'memory that the firmware cannot reach',
			(vm, ram) => vm.sev.sendUpdateDataBatch(pagesOf(ram), 1, new Uint8Array(PAGE + 64), GEOMETRY),
			-14,
		],
		[
			'packets past the end of the buffer',
			(vm, ram, out) => vm.sev.sendUpdateDataBatch(pagesOf(ram), 16, out, GEOMETRY),
			-22,
		],
		[
			'more packets than pages',
			(vm, ram, out) => vm.sev.sendUpdateDataBatch(pagesOf(ram).slice(0, 1), 2, out, GEOMETRY),
			-22,
		],
		[
			'a page that is not aligned',
			(vm, ram, out) => vm.sev.sendUpdateDataBatch([hva(ram.hva + 16)], 1, out, GEOMETRY),
			-22,
		],
		[
			'a negative offset',
			(vm, ram, out) => vm.sev.sendUpdateDataBatch(pagesOf(ram), 1, out, { ...GEOMETRY, headerAt: -1 }),
			-22,
		],
	])('refuses a batch with %s', (_, run, ret) => {
		const { source, from } = connected();
		const before = source.commands.length;
		expect(run(from.vm, from.ram, packetBuffer(source, 2).bytes)).toEqual({ ret, error: 0, done: 0 });
		expect(source.commands).toHaveLength(before);
	});

	it('resumes the source after a cancelled send', () => {
		const { from } = connected();
		expect(from.vm.sev.guestStatus().state).toBe(GuestState.SUPDATE);
		expect(from.vm.sev.sendCancel()).toEqual({ ret: 0, error: 0 });
		expect(from.vm.sev.guestStatus().state).toBe(GuestState.RUNNING);
		expect(from.vm.sev.sendCancel()).toEqual({ ret: -5, error: Status.INVALID_GUEST_STATE });
	});

	it('does not know how to cancel in v12', () => {
		const { source, from } = connected(0, 'v12');
		expect(from.vm.sev.sendCancel()).toEqual({ ret: -22, error: 0 });
		expect(count(source, 'SEND_CANCEL')).toBe(0);
	});

	it('lets no packet through to a guest of another policy', () => {
		const source = bootHost({ seed: 'source' });
		const target = bootHost({ seed: 'target' });
		const { vm } = runningVm(source, 0);
		const { session } = vm.sev.sendStart(certificatesOf(target));
		const { pdhCert } = certificatesOf(source);
		const receiver = vmWithRam(target).vm;
		expect(receiver.sev.receiveStart({ policy: Policy.NODBG, pdhCert, session })).toEqual({
			ret: -5,
			error: Status.BAD_MEASUREMENT,
		});
		expect(receiver.sev.receiveFinish()).toEqual({ ret: -9, error: 0 });
	});
});
