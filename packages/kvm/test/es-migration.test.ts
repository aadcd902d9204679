import { nodeProvider } from '@cvm/crypto/node';
import { hva, spa } from '@cvm/layout';
import { vmsa } from '@cvm/sev-hw/abi';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { describe, expect, it } from 'vitest';
import { loadEsVcpu, saveEsVcpu, type Vcpu } from '../src/index.js';
import { link, openVcpu, type VcpuThread } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { bootEsHost, type EsVm, esVm, must, plainSaveArea, runningEsVm } from './es-rig.js';
import { certificatesOf, type Host, PAGE } from './host.js';

const COUNTER = 0x1800;
const EINTR = -4;

/** Counts in RBX and in private memory, for ever. */
const program = link({
	name: 'counter',
	base: 0x10000,
	at: { reset: 0xfffffff0 },
	blocks: {
		reset: (cpu) => {
			cpu.setNum('rbx', 0);
			return cpu.jump('count');
		},
		count: (cpu) => {
			cpu.setNum('rbx', cpu.num('rbx') + 1);
			cpu.storeU32(COUNTER, cpu.num('rbx'));
			return cpu.jump('count');
		},
	},
});

/** A thread that gives the vCPU back after some blocks. */
function threadOf(vcpu: Vcpu, blocks: number): VcpuThread {
	let left = blocks;
	const afterBlock = () => {
		left--;
		if (left === 0) vcpu.kick();
	};
	return openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, afterBlock });
}

function counterOf(host: Host, { vm, ram }: EsVm): number {
	const bytes = new Uint8Array(4);
	openMemoryController(host.machine.silicon, nodeProvider).read(contextOf(vm).sev.asid, spa(ram.spa + COUNTER), bytes);
	return new DataView(bytes.buffer).getUint32(0, true);
}

/** All of a stopped guest, through the ioctls. */
function migrate(source: Host, from: EsVm, target: Host, to: EsVm): void {
	const start = from.vm.sev.sendStart(certificatesOf(target));
	must(start);
	const { pdhCert } = certificatesOf(source);
	must(to.vm.sev.receiveStart({ policy: start.policy, pdhCert, session: start.session }));
	for (let at = 0; at < from.ram.bytes.length; at += PAGE) {
		const packet = from.vm.sev.sendUpdateData({ guestUaddr: hva(from.ram.hva + at), guestLen: PAGE });
		must(packet);
		must(to.vm.sev.receiveUpdateData({ ...packet, guestUaddr: hva(to.ram.hva + at), guestLen: PAGE }));
	}
	for (const { index } of from.vcpus) {
		const packet = from.vm.sev.sendUpdateVmsa({ vcpuId: index });
		must(packet);
		must(to.vm.sev.receiveUpdateVmsa({ vcpuId: index, ...packet }));
		loadEsVcpu(to.vm, index, saveEsVcpu(from.vm, index));
	}
	must(from.vm.sev.sendFinish());
	must(to.vm.sev.receiveFinish());
}

describe('a running SEV-ES guest', () => {
	it.each([false, true])('goes on where it was, on a third host too, registers and memory (typed: %s)', (typed) => {
		const hosts = ['source', 'target', 'third'].map((seed) => bootEsHost({ seed, vmsaTransport: 'model' }));
		const [source, target, third] = hosts;
		if (source === undefined || target === undefined || third === undefined) throw new Error('hosts: expected three');
		const first = runningEsVm(source, { vcpus: 1, typed });
		let guest = first;
		let host: Host = source;
		let expected = -1;
		for (const next of [target, third]) {
			const [vcpu] = guest.vcpus;
			if (vcpu === undefined) throw new Error('vCPU: expected one');
			expect(threadOf(vcpu, 10).run()).toBe(EINTR);
			expected += 10;
			expect([counterOf(host, guest), vmsa.decode(plainSaveArea(host, guest.vm, 0)).rbx]).toEqual([
				expected,
				BigInt(expected),
			]);
			const to = esVm(next, { vcpus: 1, typed, policy: undefined });
			migrate(host, guest, next, to);
			expect(counterOf(next, to)).toBe(expected);
			guest = to;
			host = next;
		}
		const [vcpu] = guest.vcpus;
		if (vcpu === undefined) throw new Error('vCPU: expected one');
		threadOf(vcpu, 5).run();
		expect(counterOf(host, guest)).toBe(expected + 5);
		if (!typed) expect(vcpu.getRegs()).toMatchObject({ rbx: 0n, rip: 0n });
	});
});
