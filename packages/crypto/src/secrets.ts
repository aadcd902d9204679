/**
 * Whether two byte strings are equal, looking at every byte whatever the first difference is. Strings of different length
 * differ at once: lengths are no secret. JavaScript gives no timing guarantee, so this is best effort.
 */
export function constantTimeEqual(a: Uint8Array, b: Uint8Array): boolean {
	if (a.length !== b.length) return false;
	let difference = 0;
	for (let i = 0; i < a.length; i++) difference |= (a[i] ?? 0) ^ (b[i] ?? 0);
	return difference === 0;
}

/** Overwrites buffers that held secrets with zeros. Best effort: the engine may have made copies. */
export function wipe(...buffers: readonly Uint8Array[]): void {
	for (const buffer of buffers) buffer.fill(0);
}
