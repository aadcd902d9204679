import { nodeProvider } from '@cvm/crypto/node';
import { expect, it } from 'vitest';
import { link, openVcpu } from '../src/vcpu/index.js';
import { bootHost, MIB } from './host.js';
import { addRam } from './mirror-rig.js';

it('LGDT, MOV to CR2 and XRSTOR set what the VMM then reads', () => {
	const { kvm } = bootHost();
	const vm = kvm.createVm();
	addRam(vm, 0, 0, kvm.memory.mmap(MIB));
	const vcpu = vm.createVcpu(0, kvm.cpuid({ sev: false }));
	const image = new Uint8Array(4096);
	// FCW, MXCSR with its mask, XMM0, XSTATE_BV.
	const view = new DataView(image.buffer);
	view.setUint16(0, 0x27f, true);
	view.setUint32(24, 0x1fa0, true);
	view.setUint32(28, 0x2ffff, true);
	view.setBigUint64(160, 0x1122334455667788n, true);
	view.setBigUint64(512, 3n, true);
	const stored = new Uint8Array(4096);
	const program = link({
		name: 'test',
		base: 0x1000,
		blocks: {
			start: (cpu) => {
				cpu.lgdt(0x7000, 0x1004f);
				cpu.cr2 = -(2 ** 39);
				cpu.store(0x8000, image);
				cpu.xrstor(0x8000);
				cpu.xsave(0x9000);
				cpu.load(0x9000, stored);
				return cpu.jump('end');
			},
			end: (cpu) => cpu.jump('end'),
		},
	});
	expect(vcpu.setRegs({ rip: 0x1000n })).toBe(0);
	const thread = openVcpu(vcpu.share(), {
		provider: nodeProvider,
		program,
		ticks: false,
		afterBlock: () => vcpu.kick(),
	});
	expect(thread.run(), thread.fault?.message).toBe(-4);
	const { gdt, cr2 } = vcpu.getSregs();
	expect(gdt).toEqual({ base: 0x7000n, limit: 0x4f });
	expect(cr2).toBe(0xffffff8000000000n);
	expect(vcpu.getFpu()).toMatchObject({ fcw: 0x27f, mxcsr: 0x1fa0 });
	expect(stored).toEqual(image);
});
