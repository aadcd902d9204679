import { nodeProvider as provider } from '@cvm/crypto/node';
import { GENERATIONS } from '@cvm/sev-hw';
import { Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { Cap, VmType } from '../src/abi/index.js';
import { KvmError, type LinuxRelease } from '../src/index.js';
import { link, openVcpu } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { VmWord } from '../src/vm/words.js';
import { bootHost, count } from './host.js';

const OK = { ret: 0, error: 0 };
const EINVAL = { ret: -22, error: 0 };
const EBUSY = { ret: -16, error: 0 };
const ENOTTY = { ret: -25, error: 0 };

const word = (vm: Parameters<typeof contextOf>[0], at: number) => Atomics.load(contextOf(vm).words, at);

describe('KVM_SEV_INIT and KVM_SEV_ES_INIT', () => {
	it('T-1: succeed on a VM of the default type, INIT2 on a typed one, and leave the error field 0', () => {
		const { kvm } = bootHost();
		expect(kvm.createVm().sev.init()).toEqual(OK);
		expect(kvm.createVm().sev.esInit()).toEqual(OK);
		expect(kvm.createVm({ type: VmType.SEV }).sev.init2()).toEqual(OK);
		expect(kvm.createVm({ type: VmType.SEV_ES }).sev.init2()).toEqual(OK);
	});

	it('take ASIDs from both sides of the border that CPUID tells', () => {
		const { kvm } = bootHost({ generation: 'naples' });
		const [sev, es] = [kvm.createVm(), kvm.createVm()];
		sev.sev.init();
		es.sev.esInit();
		expect([word(sev, VmWord.asid), word(sev, VmWord.sevEs)]).toEqual([5, 0]);
		expect([word(es, VmWord.asid), word(es, VmWord.sevEs), word(es, VmWord.ghcbVersion)]).toEqual([1, 1, 1]);
	});

	it.each([
		['5.12', -16],
		['6.1', -16],
		['6.10', -22],
	] as const)('are refused the second time: Linux %s answers %i', (release, ret) => {
		const { kvm } = bootHost({ release });
		const vm = kvm.createVm();
		expect(vm.sev.init()).toEqual(OK);
		expect(vm.sev.init()).toEqual({ ret, error: 0 });
		expect(vm.sev.esInit()).toEqual({ ret, error: 0 });
		expect(word(vm, VmWord.sevEs)).toBe(0);
	});

	it.each([
		['5.12', OK],
		['5.13', EINVAL],
		['6.10', EINVAL],
	] as const)('with vCPUs in the VM: Linux %s', (release, answer) => {
		const { kvm } = bootHost({ release });
		for (const init of ['init', 'esInit'] as const) {
			const vm = kvm.createVm();
			vm.createVcpu(0, []);
			expect(vm.sev[init]()).toEqual(answer);
		}
	});

	it.each(['5.12', '6.10'] as const)(
		'ES_INIT is ENOTTY first of all on a host without SEV-ES (Linux %s)',
		(release) => {
			const off = bootHost({ release, sevEs: false }).kvm;
			const noAsids = bootHost({ release, generation: { ...GENERATIONS.milan, minSevNoEsAsid: 1 } }).kvm;
			for (const kvm of [off, noAsids]) {
				const vm = kvm.createVm();
				vm.createVcpu(0, []);
				expect(vm.sev.esInit()).toEqual(ENOTTY);
				expect(kvm.createVm().sev.init()).toEqual(OK);
			}
		},
	);

	it.each([
		['6.1', EBUSY],
		['6.10', ENOTTY],
	] as const)('INIT on a machine whose ASIDs are all for SEV-ES: Linux %s', (release, answer) => {
		const { milan } = GENERATIONS;
		const { kvm } = bootHost({ release, generation: { ...milan, minSevNoEsAsid: milan.maxAsid + 1 } });
		expect(kvm.createVm().sev.init()).toEqual(answer);
		expect(kvm.createVm().sev.esInit()).toEqual(OK);
	});

	it('run out of SEV-ES ASIDs, which one flush makes free again', () => {
		const host = bootHost({ generation: 'naples' });
		const vms = Array.from({ length: 4 }, () => host.kvm.createVm());
		for (const vm of vms) expect(vm.sev.esInit()).toEqual(OK);
		expect(host.kvm.createVm().sev.esInit()).toEqual(EBUSY);
		expect(host.kvm.createVm().sev.init(), 'the other pool').toEqual(OK);
		for (const vm of vms) vm.destroy();
		const flushes = count(host, 'DF_FLUSH');
		const next = Array.from({ length: 4 }, () => host.kvm.createVm());
		for (const vm of next) expect(vm.sev.esInit()).toEqual(OK);
		expect(count(host, 'DF_FLUSH')).toBe(flushes + 1);
		expect(next.map((vm) => word(vm, VmWord.asid)).sort()).toEqual([1, 2, 3, 4]);
	});

	it.each(['init', 'esInit'] as const)('%s passes on what the firmware says, and gives the ASID back', (init) => {
		const { kvm, machine } = bootHost();
		const { submit } = machine.psp;
		machine.psp.submit = (command, at) => (command === 1 ? Status.HWERROR_PLATFORM : submit(command, at));
		const vm = kvm.createVm();
		expect(vm.sev[init]()).toEqual({ ret: -5, error: Status.HWERROR_PLATFORM });
		expect([word(vm, VmWord.sevActive), word(vm, VmWord.asid), word(vm, VmWord.sevEs)]).toEqual([0, 0, 0]);
		machine.psp.submit = submit;
		expect(vm.sev[init]()).toEqual(OK);
	});

	it.each(['init', 'esInit'] as const)('%s lets hypercall 12 through in v12 only', (init) => {
		const enabled = (['v12', 'upstream'] as const).map((abi) => {
			const vm = bootHost({ abi }).kvm.createVm();
			const before = word(vm, VmWord.pageEncHcEnable);
			expect(vm.sev[init]()).toEqual(OK);
			return [before, word(vm, VmWord.pageEncHcEnable)];
		});
		expect(enabled).toEqual([
			[0, 1],
			[0, 0],
		]);
	});

	it.each([VmType.SEV, VmType.SEV_ES, VmType.SW_PROTECTED])('are EINVAL on a VM of type %i', (type) => {
		const vm = bootHost().kvm.createVm({ type });
		expect([vm.sev.init(), vm.sev.esInit()]).toEqual([EINVAL, EINVAL]);
	});
});

describe('KVM_SEV_INIT2', () => {
	it('T-59: the device attribute tells the VMSA features, and KVM_CAP_VM_TYPES what CPUID tells', () => {
		const { kvm } = bootHost();
		expect(kvm.getDeviceAttr(1, 0)).toEqual({ ret: 0, value: 0x20n });
		expect(kvm.getDeviceAttr(1, 1)).toEqual({ ret: -6, value: 0n });
		expect(kvm.getDeviceAttr(0, 0)).toEqual({ ret: -6, value: 0n });
		expect(kvm.checkExtension(Cap.VM_TYPES)).toBe(0b01111);
		const withoutEs = bootHost({ sevEs: false }).kvm;
		expect(withoutEs.checkExtension(Cap.VM_TYPES)).toBe(0b00111);
		expect(withoutEs.getDeviceAttr(1, 0)).toEqual({ ret: 0, value: 0n });
	});

	it('T-60: a zeroed argument is taken by SEV and SEV-ES VMs, not by the default and the software-protected type', () => {
		const { kvm } = bootHost();
		// SEV-SNP is not modelled: such a VM cannot be created, as on hosts without it.
		expect(() => kvm.createVm({ type: VmType.SNP })).toThrow(KvmError);
		const answers = [VmType.SEV, VmType.SEV_ES, VmType.DEFAULT, VmType.SW_PROTECTED].map((type) =>
			kvm.createVm({ type }).sev.init2(),
		);
		expect(answers).toEqual([OK, OK, EINVAL, EINVAL]);
	});

	it.each([VmType.SEV, VmType.SEV_ES])('T-61: each bit of flags is EINVAL (type %i)', (type) => {
		const vm = bootHost().kvm.createVm({ type });
		for (let bit = 0; bit < 32; bit++) expect(vm.sev.init2({ flags: (1 << bit) >>> 0 }), `bit ${bit}`).toEqual(EINVAL);
		expect(vm.sev.init2()).toEqual(OK);
	});

	it('T-62: a SEV VM takes no VMSA feature, a SEV-ES VM takes debug swap and no other', () => {
		const { kvm } = bootHost();
		for (let bit = 0n; bit < 64n; bit++) {
			const vmsaFeatures = 1n << bit;
			expect(kvm.createVm({ type: VmType.SEV }).sev.init2({ vmsaFeatures }), `SEV ${bit}`).toEqual(EINVAL);
			const es = kvm.createVm({ type: VmType.SEV_ES });
			expect(es.sev.init2({ vmsaFeatures }), `SEV-ES ${bit}`).toEqual(bit === 5n ? OK : EINVAL);
		}
	});

	it.each([
		[VmType.SEV, 0, OK, 0],
		[VmType.SEV, 1, EINVAL, 0],
		[VmType.SEV, 2, EINVAL, 0],
		[VmType.SEV_ES, 0, OK, 2],
		[VmType.SEV_ES, 1, OK, 1],
		[VmType.SEV_ES, 2, OK, 2],
		[VmType.SEV_ES, 3, EINVAL, 0],
		[VmType.SEV_ES, 0xffff, EINVAL, 0],
	] as const)('type %i with version %i of the GHCB protocol', (type, ghcbVersion, answer, offered) => {
		const vm = bootHost().kvm.createVm({ type });
		expect(vm.sev.init2({ ghcbVersion })).toEqual(answer);
		expect(word(vm, VmWord.ghcbVersion)).toBe(offered);
	});

	it('is EINVAL the second time and with vCPUs; a typed VM needs it before it can run', () => {
		const { kvm } = bootHost();
		const vm = kvm.createVm({ type: VmType.SEV_ES });
		expect(word(vm, VmWord.sevNeedInit)).toBe(1);
		expect(vm.sev.init2({ flags: 1 })).toEqual(EINVAL);
		expect(word(vm, VmWord.sevNeedInit)).toBe(1);
		const program = link({ name: 'none', base: 0x10000, blocks: { only: (cpu) => cpu.hlt('only') } });
		const early = kvm.createVm({ type: VmType.SEV_ES }).createVcpu(0, []);
		expect(openVcpu(early.share(), { provider, program, ticks: false }).run()).toBe(-22);
		expect(vm.sev.init2()).toEqual(OK);
		expect(word(vm, VmWord.sevNeedInit)).toBe(0);
		expect(vm.sev.init2()).toEqual(EINVAL);
		const late = kvm.createVm({ type: VmType.SEV });
		late.createVcpu(0, []);
		expect(late.sev.init2()).toEqual(EINVAL);
	});

	it.each(['5.12', '5.18', '6.1'] as readonly LinuxRelease[])(
		'is unknown to Linux %s, and so are VM types',
		(release) => {
			const { kvm } = bootHost({ release });
			expect(kvm.checkExtension(Cap.VM_TYPES)).toBe(0);
			expect(kvm.getDeviceAttr(1, 0)).toEqual({ ret: -6, value: 0n });
			expect(kvm.createVm().sev.init2()).toEqual(EINVAL);
			for (const type of [VmType.SW_PROTECTED, VmType.SEV, VmType.SEV_ES]) {
				expect(() => kvm.createVm({ type })).toThrow(/vm-type|type of KVM_CAP_VM_TYPES/);
			}
		},
	);

	it.each([-1, 32, 35, 5])('type %i is none', (type) => {
		expect(() => bootHost().kvm.createVm({ type: type as VmType })).toThrow(KvmError);
	});
});

describe('KVM_CAP_X86_SMM', () => {
	it('is there on /dev/kvm and on all VMs but those with SEV-ES', () => {
		const { kvm } = bootHost();
		const [plain, sev, es] = [kvm.createVm(), kvm.createVm(), kvm.createVm()];
		sev.sev.init();
		es.sev.esInit();
		const answers = [kvm, plain, sev, es].map((fd) => fd.checkExtension(Cap.X86_SMM));
		expect(answers).toEqual([1, 1, 1, 0]);
	});
});
