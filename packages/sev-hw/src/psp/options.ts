import { PACKET_LIMIT } from '../abi/buffers.js';

/**
 * What the public sources leave open, as choices with the default that the doc comment gives reasons for. Both ends of a
 * migration must agree on `vmsaPacketContext`.
 */
export interface FirmwareOptions {
	/**
	 * First byte under the MAC of SEND_UPDATE_VMSA's packets. UNCERTAIN(SEV API 0.24 SEND_UPDATE_VMSA): the enumeration
	 * reserves 3; firmware 1.55.25 uses 2, that of data packets, and so does this model by default.
	 */
	readonly vmsaPacketContext: 2 | 3;
	/**
	 * Largest payload of one transport packet. UNCERTAIN(SEV API 0.24 SEND_UPDATE_DATA): 0x4000 is what tools and Linux
	 * assume; firmware 1.55.25 takes 0x5000.
	 */
	readonly packetLimit: number;
	/**
	 * LAUNCH_START without an owner checks the policy's version and reserved bits too. UNCERTAIN(SEV API 0.24 §6.2): a digest of the
	 * specification says so; firmware 1.55.25 leaves it out.
	 */
	readonly checkPolicyWithoutOwner: boolean;
	/**
	 * The length query of SEND_UPDATE_* also sets TRANS_LEN to GUEST_LEN. UNCERTAIN(SEV API 0.24 SEND_UPDATE_DATA): Linux
	 * documents it; firmware 1.55.25 leaves the field.
	 */
	readonly fillTransLenOnQuery: boolean;
}

/** The defaults of {@link FirmwareOptions}. */
export const DEFAULT_OPTIONS: FirmwareOptions = {
	vmsaPacketContext: 2,
	packetLimit: PACKET_LIMIT,
	checkPolicyWithoutOwner: true,
	fillTransLenOnQuery: false,
};
