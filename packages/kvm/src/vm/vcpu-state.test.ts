import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createKernel } from '../kernel.js';
import { createVmHandle, openVmState, VmWord } from './state.js';
import {
	createVcpuHandle,
	loadVcpuState,
	MpState,
	openVcpuState,
	Register,
	type RegisterName,
	saveVcpuState,
	VCPU_STATE_BYTES,
	VcpuWord,
} from './vcpu-state.js';

const newVcpu = (index = 0) =>
	createVcpuHandle(
		createVmHandle({
			kernel: createKernel('upstream'),
			cbitPosition: 51,
			ramBytes: 2 ** 20,
			silicon: { kind: 'cvm-silicon' },
		}),
		index,
		[],
	);

const REGISTER_COUNT = openVcpuState(newVcpu()).registers.length;

describe('a new vCPU', () => {
	it('stands at the reset vector, runnable, with paging off and interrupts disabled', () => {
		const { registers, words } = openVcpuState(newVcpu());
		const set = (Object.keys(Register) as RegisterName[]).filter((name) => registers[Register[name]] !== 0n);
		expect(set.sort()).toEqual(['cr0', 'rflags', 'rip', 'xcr0']);
		expect(registers[Register.rip]).toBe(0xfffffff0n);
		expect(registers[Register.rflags]).toBe(2n);
		expect(registers[Register.cr0]).toBe(0x60000010n);
		expect(words[VcpuWord.mpState]).toBe(MpState.runnable);
		expect(words[VcpuWord.kick]).toBe(0);
	});
});

describe('the shared buffer', () => {
	it('holds the register file, the control words, kvm_run and the XSAVE area apart from each other', () => {
		const vcpu = newVcpu();
		const { registers, words, run, xsave } = openVcpuState(vcpu);
		const ends = (view: { byteOffset: number; byteLength: number }) => [
			view.byteOffset,
			view.byteOffset + view.byteLength,
		];
		const [a, b, c, d] = [registers, words, run, xsave].map(ends).sort(([x = 0], [y = 0]) => x - y);
		expect(a?.[1]).toBeLessThanOrEqual(b?.[0] ?? 0);
		expect(b?.[1]).toBeLessThanOrEqual(c?.[0] ?? 0);
		expect(c?.[1]).toBeLessThanOrEqual(d?.[0] ?? 0);
		expect(d?.[1]).toBeLessThanOrEqual(vcpu.state.byteLength);
		expect(run.length).toBe(3 * 4096);
	});

	it('gives every register a word of its own', () => {
		const indexes = Object.values(Register);
		expect(new Set(indexes).size).toBe(indexes.length);
		expect(Math.max(...indexes)).toBeLessThan(REGISTER_COUNT);
	});

	it('is the same memory however often it is opened', () => {
		const vcpu = newVcpu();
		openVcpuState(vcpu).registers[Register.rax] = 5n;
		openVcpuState({ ...vcpu }).run[8] = 3;
		expect(openVcpuState(vcpu).registers[Register.rax]).toBe(5n);
		expect(openVcpuState(vcpu).run[8]).toBe(3);
	});
});

describe('the saved state', () => {
	test.prop([
		fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: REGISTER_COUNT, maxLength: REGISTER_COUNT }),
		fc.constantFrom(...Object.values(MpState)),
		fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
	])('makes any other vCPU equal to the one it was taken of', (values, mpState, page) => {
		const source = newVcpu();
		const { registers, words, run, xsave } = openVcpuState(source);
		registers.set(values);
		run.set(page);
		xsave.set(Uint8Array.from(page).reverse());
		words[VcpuWord.mpState] = mpState;
		const target = newVcpu(3);
		loadVcpuState(target, saveVcpuState(source));
		const copy = openVcpuState(target);
		expect([...copy.registers]).toEqual(values);
		expect(copy.words[VcpuWord.mpState]).toBe(mpState);
		expect([...copy.run.subarray(0, page.length)]).toEqual([...page]);
		expect([...copy.xsave]).toEqual([...page].reverse());
	});

	it('carries the INIT and the SIPI that wait at the local APIC, and clears those of the target', () => {
		const [source, target] = [newVcpu(2), newVcpu(1)];
		const events = (vcpu: typeof source) => new Int32Array(vcpu.vm.shared, 4 * (VmWord.apicEvents + vcpu.index), 1);
		events(source)[0] = 0x9f03;
		loadVcpuState(target, saveVcpuState(source));
		expect([...events(target)]).toEqual([0x9f03]);
		loadVcpuState(target, saveVcpuState(newVcpu()));
		expect([...events(target)]).toEqual([0]);
	});

	it('is little-endian, registers first', () => {
		const vcpu = newVcpu();
		openVcpuState(vcpu).registers[Register.rcx] = 0x0102030405060708n;
		expect([...saveVcpuState(vcpu).subarray(8, 16)]).toEqual([8, 7, 6, 5, 4, 3, 2, 1]);
	});

	it('is a copy: it does not follow the vCPU', () => {
		const vcpu = newVcpu();
		const saved = saveVcpuState(vcpu);
		openVcpuState(vcpu).registers[0] = 1n;
		expect(saved[0]).toBe(0);
	});

	it('carries no kick: one that waits at the target stays, one at the source does not travel', () => {
		const source = newVcpu();
		Atomics.store(openVcpuState(source).words, VcpuWord.kick, 1);
		const target = newVcpu();
		loadVcpuState(target, saveVcpuState(source));
		expect(openVcpuState(target).words[VcpuWord.kick]).toBe(0);
		Atomics.store(openVcpuState(target).words, VcpuWord.kick, 1);
		loadVcpuState(target, saveVcpuState(newVcpu()));
		expect(openVcpuState(target).words[VcpuWord.kick]).toBe(1);
	});

	it('voids cached translations of the vCPU it is loaded into', () => {
		const vcpu = newVcpu();
		const vm = openVmState(vcpu.vm);
		const before = vm.tlbGeneration;
		loadVcpuState(vcpu, saveVcpuState(newVcpu()));
		expect(vm.tlbGeneration).not.toBe(before);
	});

	it.each([0, 1, VCPU_STATE_BYTES - 1, VCPU_STATE_BYTES + 1])(
		'is refused with %i bytes, and nothing is loaded',
		(length) => {
			const vcpu = newVcpu();
			const before = saveVcpuState(vcpu);
			expect(() => loadVcpuState(vcpu, new Uint8Array(length).fill(1))).toThrowError(RangeError);
			expect(saveVcpuState(vcpu)).toEqual(before);
		},
	);
});
