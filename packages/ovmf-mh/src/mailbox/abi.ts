import { layout, reserved, u32, u64 } from '@cvm/layout';

/**
 * The command block at the start of the mailbox page, 32 bytes little-endian (MH_COMMAND_PARAMETERS of the firmware,
 * CGSMigHelperCmdParams of QEMU v2 patch 1/12). `ret`, `go` and `done` are signed there; here they are read as u32.
 */
export const commandBlock = layout('MH_COMMAND_PARAMETERS', 32, {
	/** {@link HelperCommand}; written by the host. */
	nr: u64(0x00),
	/** Page address, 0 for INIT and RESET. */
	gpa: u64(0x08),
	/** Always 0; never read by the handler. */
	doPrefetch: u32(0x10),
	/** The host pre-loads {@link RET_PRELOAD}; the handler stores the result. */
	ret: u32(0x14),
	/** The host sets 1, the handler 0. */
	go: u32(0x18),
	/** The host clears it; the handler clears it on acceptance and sets 1 on completion. */
	done: u32(0x1c),
});

/** PROJECT: what the hardened helper adds behind it. */
export const commandExtension = layout('cvm_helper_extension', 32, {
	/** Of the host: another one for each command. Never 0. */
	sequence: u32(0x00),
	/** Of the helper, stored before `done`: the sequence that the results belong to (K13). */
	echo: u32(0x04),
	/** Of the helper: {@link READY_MAGIC} once it takes commands (K12). */
	ready: u32(0x08),
	/** Pages named in the list at {@link GPA_LIST_OFFSET}; or which helper, vCPU, part a command is about. */
	count: u32(0x0c),
	/** Bytes that the host left in the bodies, 0 if none: a message. */
	inputLength: u32(0x10),
	/** Bytes that the helper left in the bodies. */
	outputLength: u32(0x14),
	/** With a refusal: index of the page, or whatever the status' description says. */
	detail: u32(0x18),
	/** Of the helper: 1 while it sleeps between two looks at `go`; a kick of its vCPU ends that sooner. */
	asleep: u32(0x1c),
});
/** Offset of {@link commandExtension} in the mailbox page. */
export const EXTENSION_OFFSET = 0x20;
/** Offset of the u64 page addresses of a batch in the mailbox page: 64 of them. */
export const GPA_LIST_OFFSET = 0x100;
/** Offset of the header in the mailbox page: u32 length, then that many bytes. */
export const IO_HEADER_OFFSET = 0x800;
/** Longest header that a VMM takes, on either side (QEMU v2 patches 1 and 2). */
export const MAX_IO_HEADER = 1024;
/** PROJECT: longest message of a control command, in or out. */
export const MAX_HELPER_MESSAGE = 60_000;
/** 'MHR1' as a little-endian u32. */
export const READY_MAGIC = 0x3152484d;
/** Also the value of MH_INVALID_FUNC: only `done` tells the two apart (K14). */
export const RET_PRELOAD = 0xffffffff;
/** PROJECT: what a host that knows K14 pre-loads: no result. */
export const RET_NONE = 0x80000000;

/** Command numbers 0 … 3 as published; the rest is the hardened helper's (PROJECT). */
export const HelperCommand = {
	/** MH_FUNC_INIT, CGS_MIG_HELPER_CMD_INIT. */
	init: 0,
	/** MH_FUNC_SAVE_PAGE, CGS_MIG_HELPER_CMD_ENCRYPT. Hardened: seals the pages of the list. */
	save: 1,
	/** MH_FUNC_RESTORE_PAGE, CGS_MIG_HELPER_CMD_DECRYPT. Hardened: opens a record into the pages of the list. */
	restore: 2,
	/** MH_FUNC_RESET, CGS_MIG_HELPER_CMD_RESET. */
	reset: 3,
	/** Source, idle. Out: HELLO. `count`: streams wanted. */
	hello: 0x10,
	/** Target, empty. In: HELLO. Out: ACCEPT. */
	accept: 0x11,
	/** Source, offered. In: ACCEPT. Out: CONFIRM. */
	confirm: 0x12,
	/** Target, answered. In: CONFIRM. */
	establish: 0x13,
	/** Source, sending. Ends an epoch. Out: EPOCH. */
	epoch: 0x14,
	/** Target, receiving. In: EPOCH. */
	nextEpoch: 0x15,
	/** Source, sending: closes the gate. What is sealed from now on belongs to the last epoch. */
	freeze: 0x16,
	/** Source frozen or target proving, each helper for its frames: the digest of memory. */
	digest: 0x17,
	/** Source, frozen. `count`: vCPU. Out: a record. Only with SEV-ES. */
	saveVcpu: 0x18,
	/** Target, receiving. `count`: vCPU. In: a record. */
	restoreVcpu: 0x19,
	/** Source, frozen, all digests there. Out: MANIFEST. */
	manifest: 0x1a,
	/** Target. Receiving: in MANIFEST, out nothing. Then, proving, all digests there: out READY. */
	verify: 0x1b,
	/** Source, proven. In: READY. Out: START. From here on the source must not run, unless REVIVE. Again: the same START. */
	start: 0x1c,
	/** Target, verified. In: START. Out: RUNNING. Again: the same RUNNING. */
	run: 0x1d,
	/** Source, committed. In: RUNNING. */
	retire: 0x1e,
	/** Source, before it committed: the session is over, the gate opens. */
	cancel: 0x1f,
	/** Target that does not run: never will. Out: ABORT, if there is a session. Again: the same ABORT. */
	abort: 0x20,
	/** Source, committed. In: ABORT. The gate opens. */
	revive: 0x21,
	/** Any. Out: {@link helperReport}. */
	query: 0x22,
} as const;
export type HelperCommand = (typeof HelperCommand)[keyof typeof HelperCommand];

/** Results: i32, 0 or negative. The first three as published. */
export const HelperStatus = {
	/** MH_SUCCESS. */
	success: 0,
	/** MH_INVALID_FUNC: no such command. */
	invalidFunction: -1,
	/** MH_AUTH_ERR: a tag, MAC or key does not match. */
	authentication: -2,
	/** PROJECT from here on. The command is not one of this phase. */
	phase: -3,
	/** An address: not aligned, not RAM, or the helper's own. `detail`: index in the list. */
	address: -4,
	/** The guest shares the page (sealing), or says that it is shared (opening). `detail`: index. */
	shared: -5,
	/** A second version of a page in one epoch. `detail`: index. */
	duplicate: -6,
	/** A record out of order: counter or epoch is not the expected one. */
	order: -7,
	/** A length, count or reserved field. */
	length: -8,
	/** Another helper is at work: try again. */
	busy: -9,
	/** No migration secret of the guest owner. */
	secret: -10,
	/** No version or capability in common, or other RAM, or another guest. */
	peer: -11,
	/** Target's memory, page status or vCPUs are not those of the manifest. */
	incomplete: -12,
	/** The frame belongs to another stream. `detail`: index. */
	stream: -13,
	/** Pages of the batch are in more than one way, or twice in the list. `detail`: index. */
	list: -14,
	/** A limit of this version: epochs, counters, ranges. */
	limit: -15,
} as const;
export type HelperStatus = (typeof HelperStatus)[keyof typeof HelperStatus];

/** The name of a status, for messages. */
export const statusName = (status: number): string =>
	Object.entries(HelperStatus).find(([, value]) => value === status)?.[0] ?? `status ${status}`;

/** What QUERY answers, 64 bytes. No secret is in it. */
export const helperReport = layout('cvm_helper_report', 64, {
	/** {@link HelperPhase}. */
	phase: u32(0),
	streams: u32(4),
	epoch: u32(8),
	versionMin: u32(12),
	versionMax: u32(16),
	capabilities: u32(20),
	/** Records sealed or opened in this session. */
	records: u64(24),
	pages: u64(32),
	zeroPages: u64(40),
	/** {@link ReportFlag} bits. */
	flags: u32(48),
	pad: reserved(52, 12),
});

/** Bits of {@link helperReport}'s `flags`. */
export const ReportFlag = {
	/** The owner gave the guest a migration secret that the helper can read: without one there is no session. */
	hasSecret: 1,
} as const;

/** Where a helper stands. The source's phases, then the target's. */
export const HelperPhase = {
	/** The guest runs here; no session. */
	idle: 0,
	/** HELLO is out. */
	offered: 1,
	sending: 2,
	/** The gate is closed: the guest's vCPUs rest. */
	frozen: 3,
	/** MANIFEST is out. */
	proven: 4,
	/** START is out: the guest is given up, unless the target aborts. */
	committed: 5,
	/** The target runs. For good: keys and memory are wiped. */
	retired: 6,
	/** A target without session; its guest never ran. */
	empty: 16,
	/** ACCEPT is out. */
	answered: 17,
	receiving: 18,
	/** MANIFEST was taken, and with it what the guest shares: nothing is opened any more, the digests are being made. */
	proving: 21,
	/** Memory is proven equal; READY is out. */
	verified: 19,
	/** ABORT is out; a new session may begin. */
	aborted: 20,
} as const;
export type HelperPhase = (typeof HelperPhase)[keyof typeof HelperPhase];
