import { bytes, layout, u32, u64 } from '@cvm/layout';

/**
 * The metadata entry of a page that SWAP_OUT took out of a guest's memory (SEV API 0.24): all of it is authenticated, as
 * it stands with a zero `authTag`. `iv` is the counter that the page was encrypted under. `flags`: {@link SwapFlags}.
 */
export const swapMetadata = layout('sev_swap_metadata', 64, {
	softwareData: u64(0x00),
	iv: bytes(0x08, 8),
	authTag: bytes(0x10, 16),
	zero: bytes(0x20, 28),
	flags: u32(0x3c),
});

/** Flags of SWAP_OUT and SWAP_IN, and of a metadata entry, which has not the last. */
export const SwapFlags = {
	/** A page of 2 MiB; else of 4 KiB. */
	largePage: 1 << 0,
	/** Bits 2:1, the page's type: 0 data, 2 save area. */
	typeMask: 3 << 1,
	typeVmsa: 2 << 1,
	/** SWAP_IN only: the page is decrypted where it stands. */
	inPlace: 1 << 3,
} as const;
