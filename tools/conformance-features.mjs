/** Rows that have no test, and why. */
export const NOT_HERE = {
	'T-47': 'the same through the instruction emulator; no instruction of a guest is emulated in this model',
};

const kvm = (names) =>
	names.split(' ').map((name) => `packages/kvm/${name.includes('/') ? '' : 'test/'}${name}.test.ts`);

const mh = (...names) => names.map((name) => `packages/ovmf-mh/test/${name}.test.ts`);

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
	'the OVMF thread of March 2021 ("Firmware Support for Fast Live Migration for AMD SEV")': [
		[
			'the firmware tells the host of each page whose encryption it changes, by an unencrypted hypercall',
			...mh('reports', 'firmware'),
			"packages/ovmf-mh/test/reports.test.ts > describe('the hypercall of March 2021'",
		],
		['the GHCB pages of SEC are reported', "packages/ovmf-mh/test/reports.test.ts > describe('the GHCB pages of SEC'"],
		[
			'the variable SevLiveMigrationEnabled, and why one at all: kernel and firmware negotiate',
			"packages/ovmf-mh/test/firmware.test.ts > describe('SevLiveMigrationEnabled'",
			...kvm('guest-boot'),
		],
		[
			'concern: the variable is non-volatile',
			'packages/ovmf-mh/test/reports.test.ts > as posted outlives a downgrade',
			'packages/ovmf-mh/test/reports.test.ts > volatile, as the review asked, does not',
		],
		[
			'concern: the variable is set in PlatformDxe',
			'packages/ovmf-mh/test/reports.test.ts > is set before the handler by PlatformDxe, by AmdSevDxe at EndOfDxe',
		],
		[
			'concern: SetMemoryEncDecHypercall3 is called and not there',
			'packages/ovmf-mh/test/reports.test.ts > on a host without the feature: as posted UNSUPPORTED',
		],
		[
			'base of the handler: its set-up in DXE, and a target that rests in a dead loop',
			"packages/ovmf-mh/test/life-cycle.test.ts > describe('SetupMigrationHandler'",
			'packages/ovmf-mh/test/life-cycle.test.ts > leaves a target in its dead loop: no OS, no ExitBootServices',
		],
		[
			'PCDs from fw_cfg',
			"packages/ovmf-mh/test/life-cycle.test.ts > describe('PCDs'",
			'packages/ovmf-mh/src/fw-cfg-names.test.ts',
		],
		[
			'set-up of the mailbox, kept from the OS',
			"packages/ovmf-mh/test/life-cycle.test.ts > describe('memory types'",
			"packages/ovmf-mh/test/life-cycle.test.ts > describe('the announcement of the mailbox'",
		],
		['the mailbox protocol', ...mh('handler-loop', 'handler-mailbox', 'mailbox-threads')],
		[
			'MpInitLib and the exception library: the handler outlives ExitBootServices',
			'packages/ovmf-mh/test/start-models.test.ts > at ExitBootServices with %o',
			'packages/ovmf-mh/test/start-models.test.ts > has memory of the types that %o ask for',
			'packages/ovmf-mh/test/rfc1-processor.test.ts > dies of the OS if its memory is free to the OS',
		],
		[
			'page tables that reach all private memory and the mailbox',
			"packages/ovmf-mh/test/handler-tables.test.ts > describe('the page tables of the posted handler'",
		],
		['mailbox, page tables and stack are not overwritten by a restore', ...mh('handler-guards')],
		[
			'page encryption, a proof of concept: here the hardened helper',
			...mh('session', 'hardened-kvm'),
			'apps/host/test/helper-equality.test.ts',
		],
		[
			'an extra processor that the OS is not told of, started by MP services',
			"packages/ovmf-mh/test/rfc1-processor.test.ts > describe('the handler on an application processor'",
		],
		[
			'concern: runtime availability; a runtime service, or a kernel that polls, instead of a background process',
			'packages/ovmf-mh/test/start-models.test.ts > to a kernel that polls every %i ms takes up to that long',
			'packages/ovmf-mh/test/start-models.test.ts > to a kernel that polls is answered once the guest runs again',
		],
		[
			'concern: little kernel support: the handler answers at boot and while the OS hangs',
			'packages/ovmf-mh/test/start-models.test.ts > to %s with main vCPUs %s is answered: %s',
		],
		[
			'concern: a CPU that ACPI hides; other ways to count; all-but-self interrupts',
			'packages/ovmf-mh/test/start-models.test.ts > disagree about an application processor that ACPI hides',
			'packages/ovmf-mh/test/start-models.test.ts > is killed by an OS that sends INIT to all but itself',
		],
		[
			'concern: a helper that is hidden: the owner asks for it, in what he measures and by his secret',
			'packages/ovmf-mh/test/life-cycle.test.ts > does nothing unless it is asked to, and the guest boots as ever',
			'packages/ovmf-mh/test/hardened-secrets.test.ts > are needed: without the owner’s there is no session',
		],
		[
			'concern: the loop is busy as long as the OS lives; if it stops, A to B to C fails',
			'packages/ovmf-mh/test/start-models.test.ts > spin: answers at once and costs a whole CPU',
			'packages/ovmf-mh/test/hardened-threads.test.ts > is woken by its host when it sleeps',
			'packages/ovmf-mh/test/second-migration.test.ts',
		],
		[
			'the second posting: an entry page for a mirror vCPU, and its address in the table of the image',
			"packages/ovmf-mh/test/handler-tables.test.ts > describe('the entry page of the posted handler'",
			'packages/ovmf-mh/src/image/migration-block.test.ts',
		],
		['two machines, end to end', 'apps/host/test/helper-rfc.test.ts', 'apps/cvm/test/demo.test.ts'],
	],
	'the QEMU document of August 2021 ("Confidential Guest Live Migration")': [
		[
			'-smp with mirrorvcpus; the guest does not see them',
			'apps/host/src/options.test.ts > with mirror vCPUs, %s',
			...kvm('src/mirror/topology'),
		],
		[
			'the helper extracts a private page on command, and puts it in place at the target',
			'packages/ovmf-mh/test/handler-loop.test.ts > saves and restores private pages in plain',
		],
		[
			'flag 0x200 and subtype 4, and the record of March 2021 without subtype',
			"packages/ovmf-mh/test/handler-loop.test.ts > describe('a page of the helper in the stream'",
			'apps/host/test/helper-rfc.test.ts',
		],
		[
			'encrypted pages by the helper, others as they are; ROM, what is not RAM, and vga.vram never',
			'packages/qemu-mig/src/page-route.test.ts',
		],
		[
			'the pages of the mailbox are left out',
			"packages/qemu-mig/src/page-route.test.ts > describe('pages of the mailbox'",
		],
		[
			'the helper runs on when the VM stops',
			'packages/kvm/src/mirror/vcpu-group.test.ts > M8: pauses, resumes, synchronises and resets its other vCPUs only',
			'apps/host/test/helper-qmp.test.ts > that is stopped moves as it is: its helper runs on',
		],
		[
			'the target starts without -incoming, up to the dead loop of its firmware',
			'packages/ovmf-mh/test/life-cycle.test.ts > leaves a target in its dead loop: no OS, no ExitBootServices',
			'apps/host/test/helper-qmp.test.ts > must run, and must be one',
		],
		[
			'usage, typed as it is written: both command lines, start-migrate-incoming, migrate',
			'apps/cvm/test/usage.test.ts > a guest migrates by what the document says, %s',
		],
		['names in fw_cfg, which differ from those of the firmware', 'packages/ovmf-mh/src/fw-cfg-names.test.ts'],
		[
			'start-migration-handler: reset state of the mirror vCPU, its start',
			...mh('mirror-reset'),
			'apps/host/test/helper-qmp.test.ts > takes start-migration-handler more than once',
		],
		[
			'mirror vCPUs are not among those whose TSC is synchronised',
			'packages/kvm/src/mirror/vcpu-group.test.ts > starts the migration handler by resetting and resuming the mirror alone',
			'packages/kvm/test/mirror-vm.test.ts > are loaded in the order of the branch, the TSC only when everything is',
		],
		[
			'two shared pages: command block, header, page; go and done',
			'packages/ovmf-mh/test/handler-loop.test.ts > goes through these moments for SAVE',
			"packages/ovmf-mh/test/handler-mailbox.test.ts > describe('the host’s sequence'",
		],
		[
			'discovery of the shared pages by the table of the image, which was planned',
			'packages/ovmf-mh/src/image/migration-block.test.ts',
			'apps/cvm/test/ovmf.test.ts > K18: finds a corrected entry and all behind it',
		],
		['a guest that migrated migrates again', 'apps/host/test/helper-rfc.test.ts > by one that went from A to B to C'],
	],
	'the mirror-VM thread: its questions about the helper': [
		[
			'the helper is mapped writable in the address space of the guest; what the guest’s kernel can do to it',
			'packages/kvm/test/mirror-sharing.test.ts > 3: one page behind two slots is one page',
			'packages/ovmf-mh/test/hardened-hostile.test.ts',
		],
		[
			'guest-physical addresses or ram_addr_t: memory that the guest does not see',
			'packages/kvm/test/mirror-vm.test.ts > show RAM that the guest does not see',
			...kvm('src/mirror/ram-map'),
		],
		[
			'the three layouts of the helper’s address space',
			...kvm('src/mirror/strategy'),
			'packages/ovmf-mh/test/handler-tables.test.ts > map the mailbox at these addresses',
		],
		[
			'memory of the helper is runtime memory all over, not one region',
			'packages/ovmf-mh/test/life-cycle.test.ts > keeps what the handler has from the OS: runtime data, and reserved in E820',
			"packages/ovmf-mh/test/second-migration.test.ts > describe('the memory of two firmwares'",
		],
		[
			'the save areas of SEV-ES mapped to the helper, as the authors planned',
			...kvm('map-save-area'),
			...mh('es-helper'),
			'packages/ovmf-mh/test/session.test.ts > carries vCPU states in order, each once',
		],
		[
			'the phases in which a vCPU that arrived comes back to life (resume-from-efi)',
			'packages/ovmf-mh/src/resume/resume.test.ts',
			...mh('resume-firmware', 'es-helper'),
		],
	],
};
