import { PAGE_SIZE } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { fails, failsLater, SEV_OK, type SevResult } from '../../ccp/sev-device.js';
import { issueOnGuest, type SevContext, withCbit } from '../context.js';
import type { Argument, UserRange } from './argument.js';

/** `struct kvm_sev_dbg`. */
export interface Debug {
	/** With the length of the whole access. */
	readonly src: UserRange;
	readonly dst: number;
}

/** The firmware works on blocks of the cipher. */
const BLOCK = 16;
const down = (at: number): number => at - (at % BLOCK);
const up = (at: number): number => down(at + BLOCK - 1);

type Step = (sev: SevContext, src: number, dst: number, length: number) => SevResult;

/** KVM_SEV_DBG_DECRYPT: guest memory to host memory. */
export const debugDecrypt = (sev: SevContext, argument: Argument<Debug>): SevResult =>
	byPage(sev, argument, decryptStep);
/** KVM_SEV_DBG_ENCRYPT: host memory to guest memory. */
export const debugEncrypt = (sev: SevContext, argument: Argument<Debug>): SevResult =>
	byPage(sev, argument, encryptStep);

/**
 * sev_dbg_crypt: pieces that stay within a page of the source and of the destination; the first failure ends it, and what was
 * done until then stays done.
 *
 * DEVIATION(Linux arch/x86/kvm/svm/sev.c): pieces end where a page of the destination ends, too; Linux runs over the end of
 * the page that it pinned.
 */
function byPage(sev: SevContext, argument: Argument<Debug>, step: Step): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { src, dst } = input;
	if (src.length === 0 || src.wraps || dst === 0) return fails(Errno.EINVAL);
	for (let done = 0; done < src.length; ) {
		const from = src.address + done;
		const to = dst + done;
		const length = Math.min(src.length - done, PAGE_SIZE - (from % PAGE_SIZE), PAGE_SIZE - (to % PAGE_SIZE));
		const fromSpa = sev.memory.resolve(from, length);
		const toSpa = sev.memory.resolve(to, length);
		if (fromSpa < 0 || toSpa < 0) return done === 0 ? fails(Errno.ENOMEM) : failsLater(Errno.ENOMEM);
		const found = step === decryptStep ? sev.sharedLookup?.(from, length) : undefined;
		if (found === 'no-slot') return done === 0 ? fails(Errno.EINVAL) : failsLater(Errno.EINVAL);
		const result = (found === 'shared' ? copyStep : step)(sev, fromSpa, toSpa, length);
		if (result.ret !== 0) return result;
		done += length;
	}
	return SEV_OK;
}

/**
 * Shared memory without the firmware: handle_unencrypted_region of the postings v9 and v10.
 *
 * UNCERTAIN(kvm list, v10): whether DBG_ENCRYPT went round the firmware too; here DBG_DECRYPT alone does, as v9's log says.
 */
const copyStep: Step = (sev, src, dst, length) => {
	sev.driver.machine.dram.copyWithin(dst, src, src + length);
	return SEV_OK;
};

/** Through a bounce page unless everything is a multiple of 16: more is decrypted than was asked for, and wiped. */
const decryptStep: Step = (sev, src, dst, length) => {
	if (src % BLOCK === 0 && dst % BLOCK === 0 && length % BLOCK === 0) return decrypt(sev, src, dst, length);
	const bounce = sev.driver.scratch(0);
	const offset = src % BLOCK;
	const result = decrypt(sev, down(src), bounce.spa, up(offset + length));
	if (result.ret === 0) sev.driver.machine.dram.set(bounce.bytes.subarray(offset, offset + length), dst);
	bounce.bytes.fill(0, 0, up(offset + length));
	return result;
};

const encryptStep: Step = (sev, src, dst, length) => {
	const offset = dst % BLOCK;
	const around = up(offset + length);
	const bounce = sev.driver.scratch(0);
	if (src % BLOCK === 0 && offset === 0 && length % BLOCK === 0) return encrypt(sev, src, dst, length);
	if (offset !== 0 || length % BLOCK !== 0) {
		const { ret, error } = decrypt(sev, down(dst), bounce.spa, around);
		if (ret !== 0) return { ret, error };
	}
	bounce.bytes.set(sev.driver.machine.dram.subarray(src, src + length), offset);
	const result = encrypt(sev, bounce.spa, down(dst), around);
	bounce.bytes.fill(0, 0, around);
	return result;
};

function decrypt(sev: SevContext, src: number, dst: number, length: number): SevResult {
	const fields = { srcPaddr: withCbit(sev, src), dstPaddr: BigInt(dst), length };
	const { ret, error } = issueOnGuest(sev, COMMANDS.DBG_DECRYPT, fields);
	return { ret, error };
}

function encrypt(sev: SevContext, src: number, dst: number, length: number): SevResult {
	const fields = { srcPaddr: BigInt(src), dstPaddr: withCbit(sev, dst), length };
	const { ret, error } = issueOnGuest(sev, COMMANDS.DBG_ENCRYPT, fields);
	return { ret, error };
}
