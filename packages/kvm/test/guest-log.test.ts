import { describe, expect, it } from 'vitest';
import { EfiStatus } from '../src/guest/index.js';
import { runHost } from './guest-rig.js';
import { createKernelRig, type KernelRigOptions } from './kernel-rig.js';

const { success, notFound, deviceError } = EfiStatus;
const EFI = { efi: true };

function boot(abi: 'v12' | 'upstream', o: KernelRigOptions) {
	const log = runHost(createKernelRig(abi, { kernel: { printk: true }, ...o }));
	return {
		log,
		lines: String.fromCharCode(...log.console)
			.split('\n')
			.slice(0, -1),
	};
}

describe('the log', () => {
	const v12 = 'kvm-guest: setup_kvm_sev_migration';
	const upstream = 'kvm-guest: setup_efi_kvm_sev_migration';
	const enabled = 'KVM enable live migration';

	it.each([
		['EFI_NOT_FOUND', notFound, 1, ' : EFI live migration variable not found', 0n],
		['another error', deviceError, 1, ' : EFI variable retrieval failed', 0n],
		['the value 0', success, 0, ': live migration disabled in EFI', 0n],
		['the value 1', success, 1, ' : live migration enabled in EFI', 1n],
		['the value 0x80', success, 0x80, ' : live migration enabled in EFI', 1n],
	] as const)('P-13: says what became of %s, and the MSR is written or not', (_, status, value, line, msr) => {
		const o = { params: EFI, variable: { status, value } };
		const first = boot('v12', o);
		expect(first.lines).toEqual([enabled, `${v12}${line}`]);
		expect(first.log.migrationMsr).toBe(msr);
		const second = boot('upstream', o);
		expect(second.lines).toEqual([`${upstream}${line}`]);
		expect(second.log.migrationMsr).toBe(msr);
	});

	it('P-13: says that there are no runtime services, and the MSR stays 0', () => {
		const o = { params: { efi: true, getVariable: 0 }, variable: { status: success, value: 1 } };
		const first = boot('v12', o);
		expect(first.lines).toEqual([enabled, `${v12} : EFI runtime services are not enabled`]);
		expect(first.log.migrationMsr).toBe(0n);
		const second = boot('upstream', o);
		expect(second.lines).toEqual([`${upstream} : EFI runtime services are not enabled`]);
		expect(second.log.migrationMsr).toBe(0n);
	});

	it('says so of a guest without EFI, too, in v12 alone', () => {
		expect(boot('v12', {}).lines).toEqual([enabled, `${v12} : EFI runtime services are not enabled`]);
		expect(boot('upstream', {}).lines).toEqual([]);
	});

	it('says in v12 that the host offers nothing', () => {
		expect(boot('v12', { features: 0 }).lines).toEqual(['KVM enable live migration feature unsupported']);
		expect(boot('upstream', { features: 0 }).lines).toEqual([]);
	});

	it('is off unless it is asked for', () => {
		expect(boot('v12', { kernel: {} }).lines).toEqual([]);
	});
});

describe('earlier postings', () => {
	it('v10 is as v12', () => {
		const { log } = boot('v12', { kernel: { series: 'v10' } });
		expect(log.hypercalls).toEqual([{ gpa: 0x1200000, pages: 512, attributes: 0 }]);
		expect(log.migrationMsr).toBe(1n);
	});

	it('v9 marks two variables of .bss..decrypted, which the leaf walk makes the same large page twice', () => {
		const { log } = boot('v12', { kernel: { series: 'v9' } });
		expect(log.hypercalls).toEqual(Array(2).fill({ gpa: 0x1200000, pages: 512, attributes: 0 }));
		expect(log.migrationMsr).toBe(1n);
	});

	it('v8 goes by feature bit 14', () => {
		expect(boot('v12', { kernel: { series: 'v8' } }).log.hypercalls).toEqual([]);
		// The host has no such MSR: #GP.
		const { log } = boot('v12', { kernel: { series: 'v8' }, features: 1 << 14 });
		expect(log.hypercalls).toHaveLength(2);
		expect(log.events.at(-1)).toBe('hypercall');
	});

	it('v4 reports changes without being asked, and has no MSR', () => {
		const { log } = boot('v12', {
			kernel: { series: 'v4' },
			features: 0,
			workload: {
				test_start: (cpu) => {
					cpu.setNum('rdi', 0x2000000);
					cpu.setNum('rsi', 1);
					return cpu.call('set_memory_decrypted', 'test_stop');
				},
				test_stop: (cpu) => cpu.out(0xf4, 1, 'test_end'),
			},
		});
		expect(log.events).toEqual(['hypercall', 'out f4']);
	});

	it('v6 does not ask the firmware', () => {
		// Its MSR is not this host's, so that the write is #GP: before the late initcall.
		const { log } = boot('v12', { kernel: { series: 'v6' }, features: 1 << 14, params: EFI });
		expect(log.events).toEqual(['hypercall']);
	});
});
