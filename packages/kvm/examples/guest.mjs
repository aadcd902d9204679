// A SEV guest of @cvm/kvm alone: it negotiates, shares a page, dirties memory and is harvested. node guest.mjs
import { systemRandom } from '@cvm/crypto';
import { nodeProvider as provider } from '@cvm/crypto/node';
import { createKvm } from '@cvm/kvm';
import { bareFirmware, linuxKernel, MemoryMap } from '@cvm/kvm/guest';
import { link, openVcpu } from '@cvm/kvm/vcpu';
import { createGuestStatus, watchGuest } from '@cvm/kvm/vmm';
import { createSevMachine } from '@cvm/sev-hw';

const [memorySize, page] = [36 << 20, MemoryMap.workload];
const blocks = {
	demo: (cpu) => {
		cpu.setNum('rdi', page);
		cpu.setNum('rsi', 1);
		return cpu.call('set_memory_decrypted', 'write');
	},
	write: (cpu) => {
		cpu.fill(page, 0x3000, 0x2a); // the first of these three pages is shared
		return cpu.out(0xf4, 1, 'write');
	},
};
const demo = { start: 'demo', fragment: { name: 'demo', base: MemoryMap.workloadText, blocks } };
const kernel = linuxKernel({ abi: 'upstream', workloads: { demo } });
const program = link(bareFirmware({ ramBytes: memorySize, workload: 'demo' }), ...kernel);

const machine = createSevMachine({ dramBytes: 40 << 20, provider, random: systemRandom(), chipSeed: 'demo' });
const kvm = createKvm({ machine, abi: 'upstream' });
const vm = kvm.createVm();
const ram = kvm.memory.mmap(memorySize);
vm.sev.init();
vm.setUserMemoryRegion({ slot: 0, flags: 1, guestPhysAddr: 0n, memorySize, userspaceAddr: ram.hva }); // 1: dirty log
vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: memorySize });
vm.sev.launchStart({ policy: 0 });
vm.sev.launchMeasure();
vm.sev.launchFinish();
watchGuest(vm, kvm.abi); // before CPUID says so
const status = createGuestStatus({ abi: kvm.abi, isExposed: true, isEncrypted: true });
const vcpu = vm.createVcpu(0, kvm.cpuid({ migrationControl: true }));
const thread = openVcpu(vcpu.share(), { provider, program, ticks: false });
const dirty = new Uint32Array(memorySize >> 17);
do {
	vm.getDirtyLog(0, dirty); // fetches and clears
	thread.run();
} while (status.answer(vcpu.run)); // until the guest writes to port 0xf4
vm.getDirtyLog(0, dirty);
console.log('may be migrated:', status.msr.blocker === undefined, 'shared frames:', status.pages.ranges);
console.log('dirty frames from 0x2000 on:', dirty[page >> 17].toString(2));
console.log(
	'the host reads:',
	[page, page + 0x1000].map((at) => ram.bytes.subarray(at, at + 8).join(' ')),
);
