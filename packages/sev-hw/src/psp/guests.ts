import { type BlockCipher, type CryptoProvider, type Hash, wipe } from '@cvm/crypto';
import { GuestState } from '../abi/states.js';
import type { ChannelKeys } from '../channel/session.js';

/** Guest contexts that the firmware has room for. */
const GUEST_LIMIT = 1024;

/** Keys of the transport channel. A launch without an owner, and a closed channel, have all-zero keys. */
export interface Channel extends ChannelKeys {
	/** Cipher over the TEK. */
	readonly cipher: BlockCipher;
}

/** What the firmware knows of a guest, except its state, which only the dispatcher sees. */
export interface Guest {
	readonly handle: number;
	readonly policy: number;
	/** Memory key, 16 bytes. */
	readonly vek: Uint8Array;
	/** Offline key of SWAP_OUT and SWAP_IN, 32 bytes. */
	readonly oek: Uint8Array;
	/** What the next SWAP_OUT encrypts with: 64 bits, never the same twice under one offline key. */
	swapIv: bigint;
	/** 0: not bound. */
	asid: number;
	channel: Channel;
	/** What was measured so far; only while the guest is being launched. */
	digest: Hash | undefined;
	/** What LAUNCH_MEASURE ended with, 32 bytes, for ATTESTATION. Zeros before it, and in a received guest. */
	launchDigest: Uint8Array;
	/** What LAUNCH_MEASURE answered; a launch secret is bound to it. */
	measure: Uint8Array;
}

/** A guest that a command made and that has neither handle nor state yet. */
export type NewGuest = Omit<Guest, 'handle'>;

/** A channel over some keys, which it takes over. */
export const openChannel = (provider: CryptoProvider, keys: ChannelKeys): Channel => ({
	...keys,
	cipher: provider.blockCipher(keys.tek),
});

/** The channel that is none. */
export function zeroChannel(provider: CryptoProvider): Channel {
	const zero = () => new Uint8Array(16);
	return openChannel(provider, { tek: zero(), tik: zero(), nonce: zero(), masterSecret: zero() });
}

/** Forgets a channel's keys. */
export function wipeChannel({ tek, tik, nonce, masterSecret, cipher }: Channel): void {
	wipe(tek, tik, nonce, masterSecret);
	cipher.wipe();
}

/** Forgets the guest's channel keys, its measurement and the running digest. */
export function closeChannel(provider: CryptoProvider, guest: Guest): void {
	wipeChannel(guest.channel);
	guest.measure.fill(0);
	guest.channel = zeroChannel(provider);
	guest.digest = undefined;
}

/** The guest contexts of a platform by handle, 1 … 1024. */
export interface GuestTable {
	readonly count: number;
	isFull(): boolean;
	get(handle: number): Guest | undefined;
	/** UNINIT for a handle nobody has. */
	stateOf(handle: number): GuestState;
	setState(handle: number, state: GuestState): void;
	/** Gives the lowest free handle. The table is not full. */
	add(guest: NewGuest, state: GuestState): Guest;
	remove(handle: number): void;
	values(): Iterable<Guest>;
}

export function createGuestTable(): GuestTable {
	const entries = new Map<number, { readonly guest: Guest; state: GuestState }>();
	return {
		get count() {
			return entries.size;
		},
		isFull: () => entries.size >= GUEST_LIMIT,
		get: (handle) => entries.get(handle)?.guest,
		stateOf: (handle) => entries.get(handle)?.state ?? GuestState.UNINIT,
		setState: (handle, state) => {
			const entry = entries.get(handle);
			if (entry !== undefined) entry.state = state;
		},
		add: (fresh, state) => {
			let handle = 1;
			while (entries.has(handle)) handle++;
			const guest = { ...fresh, handle };
			entries.set(handle, { guest, state });
			return guest;
		},
		remove: (handle) => {
			entries.delete(handle);
		},
		values: () => Array.from(entries.values(), (entry) => entry.guest),
	};
}
