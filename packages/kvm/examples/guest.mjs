// A SEV guest of @cvm/kvm alone: it negotiates, shares a page, dirties memory and is harvested. node guest.mjs
import { systemRandom } from '@cvm/crypto';
import { nodeProvider as provider } from '@cvm/crypto/node';
import { createKvm } from '@cvm/kvm';
import { demoGuest } from '@cvm/kvm/guest';
import { openVcpu } from '@cvm/kvm/vcpu';
import { createGuestStatus, watchGuest } from '@cvm/kvm/vmm';
import { createSevMachine } from '@cvm/sev-hw';

const [abi, memorySize] = ['upstream', 36 << 20];
const machine = createSevMachine({ dramBytes: 40 << 20, provider, random: systemRandom(), chipSeed: 'demo' });
const kvm = createKvm({ machine, abi });
const vm = kvm.createVm();
const ram = kvm.memory.mmap(memorySize);
vm.sev.init();
vm.setUserMemoryRegion({ slot: 0, flags: 1, guestPhysAddr: 0n, memorySize, userspaceAddr: ram.hva }); // 1: dirty log
vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: memorySize });
vm.sev.launchStart({ policy: 0 });
vm.sev.launchMeasure();
vm.sev.launchFinish();
watchGuest(vm, abi); // before the vCPU sees in its CPUID that it may negotiate
const status = createGuestStatus({ abi, isExposed: true, isEncrypted: true });
const vcpu = vm.createVcpu(0, kvm.cpuid({ migrationControl: true }));
const program = demoGuest({ abi, ramBytes: memorySize }); // shares the page at 0x2000000, writes to three, then a port
const thread = openVcpu(vcpu.share(), { provider, program, ticks: false });
const dirty = new Uint32Array(memorySize >> 17); // a bit per page
while (thread.run() === 0 && status.answer(vcpu.run)) vm.getDirtyLog(0, dirty); // fetches and clears
vm.getDirtyLog(0, dirty); // what became dirty since the guest's last report

console.log('may be migrated:', status.msr.blocker === undefined, 'shared frames:', status.pages.ranges);
console.log('dirty frames from 0x2000 on:', dirty[0x2000 >> 5].toString(2));
for (const at of [0x2000000, 0x2001000]) console.log('the host reads', ram.bytes.subarray(at, at + 8).join(' '));
