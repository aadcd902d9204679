import type { Infer, Layout } from '@cvm/layout';
import {
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
} from '../abi/sev.js';
import { kvmSevReceiveUpdateVmsa, kvmSevSendUpdateVmsa } from '../abi/sev-vmsa.js';
import { type Argument, addressOf, rangeOf, type UserRange } from '../sev/handlers/argument.js';
import type { AttestationReport } from '../sev/handlers/attestation.js';
import type { Debug } from '../sev/handlers/debug.js';
import type { GuestStatus, LaunchMeasure, LaunchSecret, LaunchStart } from '../sev/handlers/launch.js';
import type { ReceiveStart, ReceiveUpdateData } from '../sev/handlers/receive.js';
import type { PacketLengths, SendStart, SendStarted, SendUpdateData } from '../sev/handlers/send.js';
import type { UpdateVmsa } from '../sev/handlers/vmsa.js';
import type { SevInit2 } from '../sev/init.js';
import { type UserSpace, userBuffer } from './user-space.js';

/*
 * The structures of the KVM_SEV commands in a program's memory, as the handlers of `src/sev/handlers` want them.
 */

/** Where a command's structure is. */
export interface Place {
	readonly space: UserSpace;
	/** `kvm_sev_cmd.data`. */
	readonly data: bigint;
}

type Shape = Pick<Layout<never>, 'size'> & {
	decode(data: Uint8Array): unknown;
	patch(out: Uint8Array, value: object): void;
};

/** A structure whose fields other than those that `encode` names go back as they came. */
function structure<L extends Shape, In, Out = never>(
	{ space, data }: Place,
	shape: L,
	decode: (fields: Infer<L>) => In,
	encode: (out: Out) => Partial<Infer<L>>,
): Argument<In, Out> {
	return {
		read: () => {
			const bytes = space.read(data, shape.size);
			return bytes && decode(shape.decode(bytes) as Infer<L>);
		},
		write: (out) => {
			const bytes = space.read(data, shape.size);
			if (bytes === undefined) return false;
			shape.patch(bytes, encode(out));
			return space.write(data, bytes);
		},
	};
}

const nothing = () => ({});

export const launchStartAt = (place: Place): Argument<LaunchStart, { readonly handle: number }> =>
	structure(
		place,
		kvmSevLaunchStart,
		({ handle, policy, dhUaddr, dhLen, sessionUaddr, sessionLen }) => ({
			handle,
			policy,
			dhCert: userBuffer(place.space, dhUaddr, dhLen),
			session: userBuffer(place.space, sessionUaddr, sessionLen),
		}),
		({ handle }) => ({ handle }),
	);

export const launchUpdateDataAt = (place: Place): Argument<UserRange> =>
	structure(place, kvmSevLaunchUpdateData, ({ uaddr, len }) => rangeOf(uaddr, BigInt(len)), nothing);

export const launchMeasureAt = (place: Place): Argument<LaunchMeasure, { readonly len: number }> =>
	structure(
		place,
		kvmSevLaunchMeasure,
		({ uaddr, len }) => ({ buffer: userBuffer(place.space, uaddr, len) }),
		({ len }) => ({ len }),
	);

type Transport = Infer<typeof kvmSevSendUpdateData>;
const transport = (space: UserSpace, packet: Transport) => ({
	header: userBuffer(space, packet.hdrUaddr, packet.hdrLen),
	guest: rangeOf(packet.guestUaddr, BigInt(packet.guestLen)),
	data: userBuffer(space, packet.transUaddr, packet.transLen),
});

export const launchSecretAt = (place: Place): Argument<LaunchSecret> =>
	structure(place, kvmSevLaunchSecret, (packet) => transport(place.space, packet), nothing);

export const sendStartAt = (place: Place): Argument<SendStart, SendStarted> =>
	structure(
		place,
		kvmSevSendStart,
		(start) => ({
			policy: start.policy,
			pdhCert: userBuffer(place.space, start.pdhCertUaddr, start.pdhCertLen),
			platCerts: userBuffer(place.space, start.platCertsUaddr, start.platCertsLen),
			amdCerts: userBuffer(place.space, start.amdCertsUaddr, start.amdCertsLen),
			session: userBuffer(place.space, start.sessionUaddr, start.sessionLen),
		}),
		({ policy, sessionLen }) => ({ policy, sessionLen }),
	);

export const sendUpdateDataAt = (place: Place): Argument<SendUpdateData, PacketLengths> =>
	structure(
		place,
		kvmSevSendUpdateData,
		(packet) => transport(place.space, packet),
		({ headerLen, transLen }) => ({ hdrLen: headerLen, transLen }),
	);

export const receiveStartAt = (place: Place): Argument<ReceiveStart, { readonly handle: number }> =>
	structure(
		place,
		kvmSevReceiveStart,
		({ handle, policy, pdhUaddr, pdhLen, sessionUaddr, sessionLen }) => ({
			handle,
			policy,
			pdhCert: userBuffer(place.space, pdhUaddr, pdhLen),
			session: userBuffer(place.space, sessionUaddr, sessionLen),
		}),
		({ handle }) => ({ handle }),
	);

export const receiveUpdateDataAt = (place: Place): Argument<ReceiveUpdateData> =>
	structure(place, kvmSevReceiveUpdateData, (packet) => transport(place.space, packet), nothing);

/** Nothing is read, and all of it is written. */
export const guestStatusAt = ({ space, data }: Place): Argument<unknown, GuestStatus> => ({
	read: () => undefined,
	write: (status) => space.write(data, kvmSevGuestStatus.encode(status)),
});

export const debugAt = (place: Place): Argument<Debug> =>
	structure(
		place,
		kvmSevDbg,
		({ srcUaddr, dstUaddr, len }) => ({ src: rangeOf(srcUaddr, BigInt(len)), dst: addressOf(dstUaddr) }),
		nothing,
	);

export const init2At = (place: Place): Argument<SevInit2> =>
	structure(
		place,
		kvmSevInit,
		({ vmsaFeatures, flags, ghcbVersion }) => ({ vmsaFeatures, flags, ghcbVersion }),
		nothing,
	);

export const attestationReportAt = (place: Place): Argument<AttestationReport, { readonly len: number }> =>
	structure(
		place,
		kvmSevAttestationReport,
		({ mnonce, uaddr, len }) => ({ mnonce, buffer: userBuffer(place.space, uaddr, len) }),
		({ len }) => ({ len }),
	);

type VmsaPacket = Infer<typeof kvmSevSendUpdateVmsa>;
const vmsaPacket = (space: UserSpace, packet: VmsaPacket): UpdateVmsa => ({
	vcpuId: packet.vcpuId,
	header: userBuffer(space, packet.hdrUaddr, packet.hdrLen),
	data: userBuffer(space, packet.transUaddr, packet.transLen),
});

export const sendUpdateVmsaAt = (place: Place): Argument<UpdateVmsa, PacketLengths> =>
	structure(
		place,
		kvmSevSendUpdateVmsa,
		(packet) => vmsaPacket(place.space, packet),
		({ headerLen, transLen }) => ({ hdrLen: headerLen, transLen }),
	);

export const receiveUpdateVmsaAt = (place: Place): Argument<UpdateVmsa> =>
	structure(place, kvmSevReceiveUpdateVmsa, (packet) => vmsaPacket(place.space, packet), nothing);
