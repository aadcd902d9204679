import { hva } from '@cvm/layout';
import { Policy } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import {
	Cap,
	Ioctl,
	kvmEnableCap,
	kvmEncRegion,
	kvmSevAttestationReport,
	kvmSevDbg,
	kvmSevGuestStatus,
	kvmSevInit,
	kvmSevLaunchMeasure,
	kvmSevLaunchSecret,
	kvmSevLaunchStart,
	kvmSevLaunchUpdateData,
	kvmSevReceiveStart,
	kvmSevReceiveUpdateData,
	kvmSevSendStart,
	kvmSevSendUpdateData,
	SevCommand,
	SevIoctl,
} from '../src/abi/index.js';
import type { Vm } from '../src/index.js';
import { bootHost, certificatesOf, PAGE, pattern } from './host.js';
import { differences, snapshot, type World } from './ioctl-fuzz-rig.js';
import { launching, type Program, program, running, sevGuest, vmOf } from './process-rig.js';

/*
 * Two hosts with the same history, as everything in them comes from one seed. On one the typed facade is called, on the other the
 * ioctl: the answers are equal to the byte, and so is what they leave behind.
 */

const TARGET = certificatesOf(bootHost({ seed: 'target' }));
const SOURCE_PDH = bootHost({ seed: 'source' }).kvm.sevDevice.pdhCertExport().pdh;

interface Side {
	readonly p: Program;
	readonly fd: number;
	readonly vm: Vm;
	/** First byte of RAM, or of an address that is none. */
	readonly at: bigint;
}

type Build = (p: Program) => { vm: number; ram?: { hva: number; bytes: Uint8Array } };

function sendStart(p: Program, vm: number): void {
	vmOf(p, vm).sev.sendStart(TARGET);
}

const STATES: Readonly<Record<string, Build>> = {
	'no SEV guest': (p) => ({ vm: p.createVm() }),
	'after KVM_SEV_INIT': sevGuest,
	launching,
	running,
	'running without debugging': (p) => running(p, Policy.NODBG),
	sending: (p) => {
		const made = running(p);
		sendStart(p, made.vm);
		return made;
	},
	'a mirror': (p) => {
		const { vm: owner, ram } = running(p);
		const vm = p.createVm();
		vmOf(p, vm).copyEncContextFrom(vmOf(p, owner));
		return { vm, ram };
	},
	dead: (p) => {
		const made = launching(p);
		vmOf(p, p.createVm()).moveEncContextFrom(vmOf(p, made.vm));
		return made;
	},
	'of type SEV': (p) => ({ vm: p.createVm(2) }),
	'of type SEV_ES': (p) => ({ vm: p.createVm(3) }),
};

/** What both ways answer. `out`: bytes and numbers that only one of them could hide. */
interface Answer {
	readonly ret: number;
	readonly error?: number;
	readonly out?: unknown;
}

const blob = (p: Program, bytes: Uint8Array) => ({ uaddr: p.put(bytes), len: bytes.length });
/** Bytes of an answer: the facade's are empty unless the call succeeded. */
const out = (p: Program, ret: number, address: bigint, length: number): Uint8Array =>
	ret === 0 ? p.at(address, length) : new Uint8Array(0);

const call = ({ p, fd }: Side, id: number, structure?: Uint8Array) => p.sev(fd, id, structure, { error: 0 });
const plainCall =
	(id: number) =>
	(side: Side): Answer => {
		const { ret, error } = call(side, id);
		return { ret, error };
	};

const HEADER = pattern(52);
const DATA = pattern(PAGE);

const METHODS: readonly [name: string, facade: (side: Side) => Answer, ioctl: (side: Side) => Answer][] = [
	['init', ({ vm }) => vm.sev.init(), plainCall(SevCommand.INIT)],
	['esInit', ({ vm }) => vm.sev.esInit(), plainCall(SevCommand.ES_INIT)],
	[
		'init2',
		({ vm }) => vm.sev.init2({}),
		(side) => {
			const { ret, error } = call(side, SevCommand.INIT2, new Uint8Array(kvmSevInit.size));
			return { ret, error };
		},
	],
	[
		'launchStart',
		({ vm }) => vm.sev.launchStart({ policy: Policy.NOKS }),
		(side) => {
			const { ret, error } = call(side, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: Policy.NOKS }));
			return { ret, error };
		},
	],
	[
		'launchStart with an owner',
		({ vm }) => vm.sev.launchStart({ policy: 0, dhCert: DATA.subarray(0, 2084), session: DATA.subarray(0, 128) }),
		(side) => {
			const dh = blob(side.p, DATA.subarray(0, 2084));
			const session = blob(side.p, DATA.subarray(0, 128));
			const start = { dhUaddr: dh.uaddr, dhLen: dh.len, sessionUaddr: session.uaddr, sessionLen: session.len };
			const { ret, error } = call(side, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode(start));
			return { ret, error };
		},
	],
	...[PAGE, 8, 0].map((len): (typeof METHODS)[number] => [
		`launchUpdateData of ${len} bytes`,
		({ vm, at }) => vm.sev.launchUpdateData({ uaddr: hva(at), len }),
		(side) => {
			const range = kvmSevLaunchUpdateData.encode({ uaddr: side.at, len });
			const { ret, error } = call(side, SevCommand.LAUNCH_UPDATE_DATA, range);
			return { ret, error };
		},
	]),
	['launchUpdateVmsa', ({ vm }) => vm.sev.launchUpdateVmsa(), plainCall(SevCommand.LAUNCH_UPDATE_VMSA)],
	...[48, 256, 47, 0, 0x4001].map((len): (typeof METHODS)[number] => [
		`launchMeasure into ${len} bytes`,
		({ vm }) => {
			const { ret, error, measurement, len: answered } = vm.sev.launchMeasure({ len });
			return { ret, error, out: [measurement, answered] };
		},
		(side) => {
			const at = side.p.put(new Uint8Array(len));
			const measure = kvmSevLaunchMeasure.encode({ uaddr: at, len });
			const { ret, error, data } = call(side, SevCommand.LAUNCH_MEASURE, measure);
			return { ret, error, out: [out(side.p, ret, at, 48), kvmSevLaunchMeasure.decode(data).len] };
		},
	]),
	...[208, 0, 16].map((len): (typeof METHODS)[number] => [
		`getAttestationReport into ${len} bytes`,
		({ vm }) => {
			const { ret, error, report, len: answered } = vm.sev.getAttestationReport({ mnonce: DATA.slice(0, 16), len });
			return { ret, error, out: [report, answered] };
		},
		(side) => {
			const at = side.p.put(new Uint8Array(len));
			const request = kvmSevAttestationReport.encode({ mnonce: DATA.slice(0, 16), uaddr: at, len });
			const { ret, error, data } = call(side, SevCommand.GET_ATTESTATION_REPORT, request);
			return { ret, error, out: [out(side.p, ret, at, len), kvmSevAttestationReport.decode(data).len] };
		},
	]),
	[
		'launchSecret',
		({ vm, at }) => vm.sev.launchSecret({ header: HEADER, guestUaddr: hva(at), data: DATA.subarray(0, 16) }),
		(side) => {
			const header = blob(side.p, HEADER);
			const data = blob(side.p, DATA.subarray(0, 16));
			const secret = {
				hdrUaddr: header.uaddr,
				hdrLen: 52,
				guestUaddr: side.at,
				guestLen: 16,
				transUaddr: data.uaddr,
				transLen: 16,
			};
			const { ret, error } = call(side, SevCommand.LAUNCH_SECRET, kvmSevLaunchSecret.encode(secret));
			return { ret, error };
		},
	],
	['launchFinish', ({ vm }) => vm.sev.launchFinish(), plainCall(SevCommand.LAUNCH_FINISH)],
	...[128, 0, 127, 0x4001].map((sessionLen): (typeof METHODS)[number] => [
		`sendStart with a session of ${sessionLen} bytes`,
		({ vm }) => {
			const {
				ret,
				error,
				policy,
				session,
				sessionLen: length,
			} = vm.sev.sendStart({ ...TARGET, sessionLen, policy: 9 });
			return { ret, error, out: [policy, session, length] };
		},
		(side) => {
			const [pdh, plat, amd] = [TARGET.pdhCert, TARGET.platCerts, TARGET.amdCerts].map((one) => blob(side.p, one));
			const at = side.p.put(new Uint8Array(sessionLen));
			const start = kvmSevSendStart.encode({
				policy: 9,
				pdhCertUaddr: pdh?.uaddr ?? 0n,
				pdhCertLen: pdh?.len ?? 0,
				platCertsUaddr: plat?.uaddr ?? 0n,
				platCertsLen: plat?.len ?? 0,
				amdCertsUaddr: amd?.uaddr ?? 0n,
				amdCertsLen: amd?.len ?? 0,
				sessionUaddr: at,
				sessionLen,
			});
			const { ret, error, data } = call(side, SevCommand.SEND_START, start);
			const after = kvmSevSendStart.decode(data);
			return { ret, error, out: [after.policy, out(side.p, ret, at, sessionLen), after.sessionLen] };
		},
	]),
	...[
		[PAGE, 52, PAGE],
		[PAGE, 0, PAGE],
		[16, 52, 0],
		[PAGE + 16, 52, PAGE],
		[16, 0x60, 64],
	].map(([guestLen = 0, headerLen = 0, transLen = 0]): (typeof METHODS)[number] => [
		`sendUpdateData of ${guestLen} bytes into ${headerLen} and ${transLen}`,
		({ vm, at }) => {
			const sent = vm.sev.sendUpdateData({ guestUaddr: hva(at), guestLen, headerLen, transLen });
			return { ret: sent.ret, error: sent.error, out: [sent.header, sent.data, sent.headerLen, sent.transLen] };
		},
		(side) => {
			const hdrUaddr = side.p.put(new Uint8Array(headerLen));
			const transUaddr = side.p.put(new Uint8Array(transLen));
			const packet = { hdrUaddr, hdrLen: headerLen, guestUaddr: side.at, guestLen, transUaddr, transLen };
			const { ret, error, data } = call(side, SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode(packet));
			const after = kvmSevSendUpdateData.decode(data);
			const blobs = [out(side.p, ret, hdrUaddr, headerLen), out(side.p, ret, transUaddr, transLen)];
			return { ret, error, out: [...blobs, after.hdrLen, after.transLen] };
		},
	]),
	['sendFinish', ({ vm }) => vm.sev.sendFinish(), plainCall(SevCommand.SEND_FINISH)],
	['sendCancel', ({ vm }) => vm.sev.sendCancel(), plainCall(SevCommand.SEND_CANCEL)],
	[
		'receiveStart',
		({ vm }) => vm.sev.receiveStart({ policy: 0, pdhCert: SOURCE_PDH, session: DATA.subarray(0, 128) }),
		(side) => {
			const pdh = blob(side.p, SOURCE_PDH);
			const session = blob(side.p, DATA.subarray(0, 128));
			const start = { pdhUaddr: pdh.uaddr, pdhLen: pdh.len, sessionUaddr: session.uaddr, sessionLen: session.len };
			const { ret, error } = call(side, SevCommand.RECEIVE_START, kvmSevReceiveStart.encode(start));
			return { ret, error };
		},
	],
	[
		'receiveUpdateData',
		({ vm, at }) => vm.sev.receiveUpdateData({ header: HEADER, guestUaddr: hva(at), guestLen: PAGE, data: DATA }),
		(side) => {
			const header = blob(side.p, HEADER);
			const data = blob(side.p, DATA);
			const packet = kvmSevReceiveUpdateData.encode({
				hdrUaddr: header.uaddr,
				hdrLen: 52,
				guestUaddr: side.at,
				guestLen: PAGE,
				transUaddr: data.uaddr,
				transLen: PAGE,
			});
			const { ret, error } = call(side, SevCommand.RECEIVE_UPDATE_DATA, packet);
			return { ret, error };
		},
	],
	['receiveFinish', ({ vm }) => vm.sev.receiveFinish(), plainCall(SevCommand.RECEIVE_FINISH)],
	[
		'guestStatus',
		({ vm }) => {
			const { ret, error, ...rest } = vm.sev.guestStatus();
			return { ret, error, out: rest };
		},
		(side) => {
			const { ret, error, data } = call(side, SevCommand.GUEST_STATUS, new Uint8Array(kvmSevGuestStatus.size));
			return { ret, error, out: kvmSevGuestStatus.decode(data) };
		},
	],
	...(['dbgDecrypt', 'dbgEncrypt'] as const).map((name): (typeof METHODS)[number] => [
		name,
		({ vm, p, at }) => {
			const other = p.put(DATA);
			const [src, dst] = name === 'dbgDecrypt' ? [at + 5n, other] : [other, at + 5n];
			const { ret, error } = vm.sev[name]({ src: hva(src), dst: hva(dst), len: 100 });
			return { ret, error, out: p.at(other, 100) };
		},
		(side) => {
			const other = side.p.put(DATA);
			const [srcUaddr, dstUaddr] = name === 'dbgDecrypt' ? [side.at + 5n, other] : [other, side.at + 5n];
			const id = name === 'dbgDecrypt' ? SevCommand.DBG_DECRYPT : SevCommand.DBG_ENCRYPT;
			const { ret, error } = call(side, id, kvmSevDbg.encode({ srcUaddr, dstUaddr, len: 100 }));
			return { ret, error, out: side.p.at(other, 100) };
		},
	]),
	...(
		[
			['memoryEncryptRegisterRegion', SevIoctl.KVM_MEMORY_ENCRYPT_REG_REGION],
			['memoryEncryptUnregisterRegion', SevIoctl.KVM_MEMORY_ENCRYPT_UNREG_REGION],
		] as const
	).map(([name, request]): (typeof METHODS)[number] => [
		name,
		({ vm, at }) => ({ ret: vm[name]({ addr: hva(at), size: PAGE }) }),
		({ p, fd, at }) => ({ ret: p.process.ioctl(fd, request, kvmEncRegion.encode({ addr: at, size: BigInt(PAGE) })) }),
	]),
	...[Cap.EXIT_HYPERCALL, Cap.X86_USER_SPACE_MSR, Cap.X86_SMM, Cap.DIRTY_LOG_RING].map(
		(cap): (typeof METHODS)[number] => [
			`capability ${cap}`,
			({ vm }) => ({ ret: vm.enableCap(cap, [4n, 0n, 0n, 0n]), out: vm.checkExtension(cap) }),
			({ p, fd }) => ({
				ret: p.process.ioctl(fd, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, arg0: 4n })),
				out: p.process.ioctl(fd, Ioctl.KVM_CHECK_EXTENSION, cap),
			}),
		],
	),
];

/** A side in a state, and what `snapshot` wants. */
function build(state: Build): Side & { readonly world: World } {
	const p = program({ seed: 'twin' });
	const { vm: fd, ram } = state(p);
	const at = ram?.hva ?? 0x1000;
	const empty = { vms: [fd] as [number], vcpus: new Map(), blobs: { hva: 0, bytes: new Uint8Array(0) } };
	return { p, fd, vm: vmOf(p, fd), at: BigInt(at), world: { p, ...empty, ram: new Map(ram && [[fd, ram]]) } };
}

describe.each(Object.entries(STATES))('a VM that is %s', (_, state) => {
	it.each(METHODS)('answers %s the same by facade and by ioctl', (_, facade, ioctl) => {
		const [typed, exact] = [build(state), build(state)];
		const answer = facade(typed);
		const { ret, error, out } = { error: 0, out: undefined, ...ioctl(exact) };
		// The facade says "no such command" as the kernel does, with nothing of the structure to show.
		expect({ ret, error }).toEqual({ ret: answer.ret, error: answer.error ?? 0 });
		if (out !== undefined && !isRefused(ret)) expect(out).toEqual(answer.out);
		expect(differences(snapshot(typed.world, typed.fd), snapshot(exact.world, exact.fd))).toEqual([]);
	});
});

/** Before anything is written back: the facade fills in what it does not know. */
const isRefused = (ret: number): boolean => ret === -25 || ret === -22 || ret === -9;
