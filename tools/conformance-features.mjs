/** Rows that have no test, and why. */
export const NOT_HERE = {
	'T-47': 'the same through the instruction emulator; no instruction of a guest is emulated in this model',
};

const kvm = (names) =>
	names.split(' ').map((name) => `packages/kvm/${name.includes('/') ? '' : 'test/'}${name}.test.ts`);

/** What the public documents name, and the tests that hold it: files, or `file > title`. */
export const FEATURES = {
	'the KVM series (v12 and its change log)': [
		[
			'SEND_START, SEND_UPDATE_DATA, SEND_FINISH; RECEIVE_START, RECEIVE_UPDATE_DATA, RECEIVE_FINISH',
			...kvm('migration process-sev-op process-sev-transport'),
		],
		['private pages by the firmware, shared ones as they are', 'apps/host/test/equality.test.ts'],
		[
			'hypercall3 with VMMCALL hard-coded',
			'packages/kvm/test/hypercalls.test.ts > G7: raises #UD for VMCALL in an SEV guest',
			...kvm('fix-hypercall'),
		],
		['KVM_HC_PAGE_ENC_STATUS and KVM_EXIT_HYPERCALL', ...kvm('hypercalls hypercall-dispatch')],
		['the guest reports each change of a page’s status', ...kvm('set-memory guest-early')],
		['KVM_FEATURE_SEV_LIVE_MIGRATION and the MSR', ...kvm('guest-boot msrs')],
		['GUID, EFI variable, negotiation, detection in the guest', ...kvm('guest-boot guest-log')],
		['kexec', ...kvm('kexec')],
		['the MSR handled by userspace, reset, A to B to C', ...kvm('msrs userspace-msr-exit src/vmm/guest-status')],
		[
			'v12: a flag per VM instead of the operation; DMA_SHARE and DMA_UNSHARE gone',
			'packages/kvm/test/page-status-exits.test.ts > exits with KVM_EXIT_HYPERCALL instead',
		],
		[
			'v11: those exits, nothing kept in KVM, no bypass for DBG, enabled by the VMM',
			'packages/kvm/test/page-status-exits.test.ts > keeps nothing in KVM',
		],
		[
			'v10: list of shared pages, whole .bss..decrypted, bypass for DBG',
			'packages/kvm/test/page-status-exits.test.ts > hands it out once',
			'packages/kvm/test/guest-log.test.ts > v10 is as v12',
		],
		['v9: no implicit enabling; bypass for DBG by the bitmap', "packages/kvm/test/page-status.test.ts > describe('v9'"],
		[
			'v8: an incoming guest is enabled (A to B to C)',
			'packages/kvm/test/page-status.test.ts > enables an incoming guest implicitly',
		],
		[
			'v7: bitmap as large as the slots, SET of whole ranges, no RESET, GET wants the guest’s word, two clock variables',
			"packages/kvm/test/page-status.test.ts > describe('v7'",
			'packages/kvm/test/guest-log.test.ts > v9 marks two variables of .bss..decrypted',
		],
		[
			'v5: feature bit, MSR in KVM, trailing bits of GET, kexec',
			"packages/kvm/test/page-status.test.ts > describe('v5'",
		],
		['v4: RESET, MMIO ranges', "packages/kvm/test/page-status.test.ts > describe('v4'"],
		['v3: reset with the boot vCPU', "packages/kvm/test/page-status.test.ts > describe('v3'"],
		[
			'v2: SET, GET by frame, limit of the session blob',
			"packages/kvm/test/page-status.test.ts > describe('v2'",
			...kvm('page-status-numbers'),
		],
		['upstream: KVM_HC_MAP_GPA_RANGE, KVM_CAP_EXIT_HYPERCALL', ...kvm('map-gpa-range')],
	],
	'SEV-ES in QEMU (third posting)': [
		[
			'registers are protected; #VC, GHCB, VMGEXIT',
			...kvm('protected-vcpu ghcb-validation ghcb-events ghcb-msr es-guest'),
		],
		['policy bit 2 selects it; KVM_SEV_ES_INIT', ...kvm('sev-init es-launch')],
		['LAUNCH_UPDATE_VMSA for each vCPU before the measurement; frozen afterwards', ...kvm('es-launch es-registers')],
		[
			'AP reset vector from the firmware’s GUIDed block',
			...kvm('ap-start'),
			'packages/ovmf-mh/test/firmware-es.test.ts',
		],
		['in-kernel irqchip, SMM per VM', ...kvm('sev-init ap-start')],
		['reads of registers after encryption', ...kvm('es-registers')],
		[
			'numbers of the commands before there was code',
			'packages/kvm/test/process-sev-op.test.ts',
			'interop/headers-kvm.test.ts',
		],
		['save areas by the firmware: our marked extension', ...kvm('es-transport es-migration')],
	],
	'the mirror VM': [
		['shared context, own vCPUs and slots, lifetime', ...kvm('copy-context move-context mirror-vm mirror-sharing')],
		['no pause, resume, synchronisation and reset', ...kvm('src/mirror/vcpu-group')],
		['hidden from ACPI, from fw_cfg’s count, from hotplug', ...kvm('src/mirror/topology')],
		[
			'ram_addr_t instead of guest-physical addresses; status of what is not mapped',
			...kvm('src/mirror/ram-map mirror-sharing src/vmm/shared-pages'),
		],
		[
			'option 1: low 4 GiB one to one and a shifted window; the prototype’s identity with an alias',
			...kvm('src/mirror/strategy mirror-vm'),
		],
		[
			'option 2: registration at the first write of 1',
			'packages/kvm/src/mirror/strategy.test.ts > keeps the first set until 0 is written',
		],
		['option 3: copy by the firmware, and why not', 'packages/kvm/src/mirror/strategy.test.ts > is refused at set-up'],
		[
			'hazards: writable handler, unlogged writes, one pinning, shared devices',
			"packages/kvm/test/mirror-sharing.test.ts > describe('hazards of the design'",
		],
	],
};
