import { CHIP_ID_SIZE, COMMANDS, PlatformState, platformStatusBuffer } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { BLOB_LIMIT, type KernelBuffer, KMALLOC_LIMIT, type SevDriver, type SevResult } from './sev-device.js';
import {
	SEV_USER_DATA_GET_ID_SIZE,
	SevUserCommand,
	sevUserDataGetId2,
	sevUserDataPdhCertExport,
	sevUserDataPekCertImport,
	sevUserDataPekCsr,
} from './user-abi.js';
import { copyIn, copyOut, Refusal, type Steps, structIn } from './user-memory.js';

/** One SEV_ISSUE_CMD on its way through the driver. */
interface SevCall {
	readonly driver: SevDriver;
	/** `sev_issue_cmd.data`. */
	readonly data: bigint;
	/** `sev_issue_cmd.error`: the caller's until the firmware was reached, then its last status. */
	error: number;
	readonly writable: boolean;
}

/** Stops wherever it wants something of the program's memory; see {@link Steps}. */
type Handler = (call: SevCall) => Steps<number> | number;

/** GET_ID came with this API version: sev_ioctl_do_get_id. */
const GET_ID_VERSION = { major: 0, minor: 16 };

/** Takes the firmware's status up, if it was reached. @returns the errno that goes with it */
function note(call: SevCall, { ret, error, reached }: SevResult): number {
	if (ret === 0 || error !== 0 || reached) call.error = error;
	return ret;
}

function requireWritable({ writable }: SevCall): void {
	if (!writable) throw new Refusal(Errno.EPERM);
}

const isDown = ({ driver }: SevCall): boolean => driver.platformStatus().state === PlatformState.UNINIT;

/** INIT unless that was done. */
function bringUp(call: SevCall): void {
	if (!isDown(call)) return;
	const ret = note(call, call.driver.platformInit());
	if (ret !== 0) throw new Refusal(-ret);
}

/** A zeroed buffer for the firmware to write to. */
function blank(call: SevCall, index: 0 | 1): KernelBuffer {
	const buffer = call.driver.scratch(index);
	buffer.bytes.fill(0);
	return buffer;
}

/** psp_copy_user_blob. */
function* blobIn(call: SevCall, index: 0 | 1, address: bigint, length: number): Steps<bigint> {
	if (address === 0n || length === 0 || length > BLOB_LIMIT) throw new Refusal(Errno.EINVAL);
	const data = yield* copyIn(address, length);
	const { spa, bytes } = call.driver.scratch(index);
	bytes.set(data);
	return BigInt(spa);
}

/**
 * What the firmware wrote, to the program. DEVIATION(Linux drivers/crypto/ccp/sev-dev.c): 6.x copies also after a refusal
 * for want of room, as many bytes as the firmware wanted, past the end of its own buffer. A later fix to
 * sev_ioctl_do_pek_csr, _get_id2 and _pdh_export returns before that, and so does this.
 */
function* blobOut(ret: number, address: bigint, { bytes }: KernelBuffer, length: number): Steps<number> {
	if (ret === 0) yield* copyOut(address, bytes.slice(0, length));
	return ret;
}

/** sev_ioctl_do_reset. */
const factoryReset: Handler = (call) => {
	requireWritable(call);
	const status = call.driver.platformStatus();
	const ret = note(call, status);
	if (ret !== 0) return ret;
	if (status.state === PlatformState.WORKING) return -Errno.EBUSY;
	if (status.state === PlatformState.INIT) {
		const down = note(call, call.driver.issueBare(COMMANDS.SHUTDOWN));
		if (down !== 0) return down;
	}
	return note(call, call.driver.issueBare(COMMANDS.PLATFORM_RESET));
};

/** sev_ioctl_do_platform_status. The firmware's structure is the program's, with bytes 3 to 6 taken for one word. */
const platformStatus: Handler = function* (call) {
	const result = call.driver.issue(COMMANDS.PLATFORM_STATUS, {});
	const ret = note(call, result);
	if (ret === 0) yield* copyOut(call.data, platformStatusBuffer.encode(result.out));
	return ret;
};

/** sev_ioctl_do_pek_pdh_gen. */
const generate =
	(command: { readonly id: number }): Handler =>
	(call) => {
		requireWritable(call);
		bringUp(call);
		return note(call, call.driver.issueBare(command));
	};

/** sev_ioctl_do_pek_csr. */
const pekCsr: Handler = function* (call) {
	requireWritable(call);
	const { address, length } = yield* structIn(call.data, sevUserDataPekCsr);
	const query = address === 0n || length === 0;
	if (!query && length > BLOB_LIMIT) return -Errno.EFAULT;
	const blob = blank(call, 0);
	bringUp(call);
	const result = call.driver.issue(COMMANDS.PEK_CSR, query ? {} : { csrPaddr: BigInt(blob.spa), csrLen: length });
	const ret = note(call, result);
	const { csrLen } = result.out;
	yield* copyOut(call.data, sevUserDataPekCsr.encode({ address, length: csrLen }));
	return query ? ret : yield* blobOut(ret, address, blob, csrLen);
};

/** sev_ioctl_do_pdh_export. The only command for which write access matters just while the platform is down. */
const pdhCertExport: Handler = function* (call) {
	if (isDown(call)) {
		requireWritable(call);
		bringUp(call);
	}
	const input = yield* structIn(call.data, sevUserDataPdhCertExport);
	const { pdhCertAddress, pdhCertLen, certChainAddress, certChainLen } = input;
	const query = pdhCertAddress === 0n || pdhCertLen === 0 || certChainAddress === 0n;
	if (!query && (pdhCertLen > BLOB_LIMIT || certChainLen > BLOB_LIMIT)) return -Errno.EFAULT;
	const pdh = blank(call, 0);
	const chain = blank(call, 1);
	const room = {
		pdhPaddr: BigInt(pdh.spa),
		pdhLen: pdhCertLen,
		certsPaddr: BigInt(chain.spa),
		certsLen: certChainLen,
	};
	const result = call.driver.issue(COMMANDS.PDH_CERT_EXPORT, query ? {} : room);
	const ret = note(call, result);
	const { pdhLen, certsLen } = result.out;
	const answer = { ...input, pdhCertLen: pdhLen, certChainLen: certsLen };
	yield* copyOut(call.data, sevUserDataPdhCertExport.encode(answer));
	if (query) return ret;
	yield* blobOut(ret, pdhCertAddress, pdh, pdhLen);
	return yield* blobOut(ret, certChainAddress, chain, certsLen);
};

/** sev_ioctl_do_pek_import. */
const pekCertImport: Handler = function* (call) {
	requireWritable(call);
	const input = yield* structIn(call.data, sevUserDataPekCertImport);
	const pekPaddr = yield* blobIn(call, 0, input.pekCertAddress, input.pekCertLen);
	const ocaPaddr = yield* blobIn(call, 1, input.ocaCertAddress, input.ocaCertLen);
	bringUp(call);
	const fields = { pekPaddr, pekLen: input.pekCertLen, ocaPaddr, ocaLen: input.ocaCertLen };
	return note(call, call.driver.issue(COMMANDS.PEK_CERT_IMPORT, fields));
};

/** The driver learnt the version when it loaded, with a command that no caller sees. */
function requireGetId({ driver }: SevCall): void {
	const { apiMajor, apiMinor } = driver.platformStatus();
	const { major, minor } = GET_ID_VERSION;
	if (apiMajor < major || (apiMajor === major && apiMinor < minor)) throw new Refusal(Errno.ENOTSUPP);
}

/** sev_ioctl_do_get_id: asks with room for two sockets, and copies what the firmware says it wrote. */
const getId: Handler = function* (call) {
	requireGetId(call);
	const blob = blank(call, 0);
	const room = { idPaddr: BigInt(blob.spa), idLen: SEV_USER_DATA_GET_ID_SIZE };
	const result = call.driver.issue(COMMANDS.GET_ID, room);
	return yield* blobOut(note(call, result), call.data, blob, result.out.idLen);
};

/** sev_ioctl_do_get_id2. Works in every state of the platform, and without write access. */
const getId2: Handler = function* (call) {
	requireGetId(call);
	const { address, length } = yield* structIn(call.data, sevUserDataGetId2);
	const query = address === 0n || length === 0;
	if (!query && length > KMALLOC_LIMIT) return -Errno.ENOMEM;
	const blob = blank(call, 0);
	// Scratch memory is shorter than what the program may offer; the firmware writes one or two ids of 64 bytes.
	const idLen = Math.min(length, BLOB_LIMIT);
	const result = call.driver.issue(COMMANDS.GET_ID, query ? {} : { idPaddr: BigInt(blob.spa), idLen });
	const ret = note(call, result);
	yield* copyOut(call.data, sevUserDataGetId2.encode({ address, length: result.out.idLen }));
	return query ? ret : yield* blobOut(ret, address, blob, Math.min(result.out.idLen, 2 * CHIP_ID_SIZE));
};

/** The driver's switch over `sev_issue_cmd.cmd`. */
export const HANDLERS: Readonly<Record<number, Handler>> = {
	[SevUserCommand.FACTORY_RESET]: factoryReset,
	[SevUserCommand.PLATFORM_STATUS]: platformStatus,
	[SevUserCommand.PEK_GEN]: generate(COMMANDS.PEK_GEN),
	[SevUserCommand.PEK_CSR]: pekCsr,
	[SevUserCommand.PDH_GEN]: generate(COMMANDS.PDH_GEN),
	[SevUserCommand.PDH_CERT_EXPORT]: pdhCertExport,
	[SevUserCommand.PEK_CERT_IMPORT]: pekCertImport,
	[SevUserCommand.GET_ID]: getId,
	[SevUserCommand.GET_ID2]: getId2,
};
