/** Where a QMP server listens. */
export type QmpAddress =
	| { readonly type: 'unix'; readonly path: string }
	| { readonly type: 'tcp'; readonly host: string; readonly port: number };

/** A QMP address that is not understood, or that other machines could reach. */
export class QmpAddressError extends Error {
	override readonly name = 'QmpAddressError';
	readonly code: 'syntax' | 'not-loopback';

	constructor(code: 'syntax' | 'not-loopback', text: string, expected: string) {
		super(`QMP address: expected ${expected}, got ${JSON.stringify(text)}`);
		this.code = code;
	}
}

const isLoopback = (host: string) =>
	host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);

/**
 * Reads the forms of QEMU's `-qmp` option: `unix:PATH`, `tcp:HOST:PORT`, either followed by `,server` and `,nowait` (or
 * `server=on`, `wait=off`). A comma inside PATH is written twice. Waiting for the first client is not offered.
 * QMP has no authentication, so TCP is confined to this machine.
 *
 * @throws QmpAddressError
 */
export function parseQmpAddress(text: string): QmpAddress {
	const [first = '', ...options] = text.replaceAll(',,', '\0').split(',');
	for (const option of options) {
		if (!['server', 'server=on', 'nowait', 'wait=off'].includes(option)) {
			throw new QmpAddressError('syntax', text, 'options server and nowait');
		}
	}
	const place = first.replaceAll('\0', ',');
	if (place.startsWith('unix:') && place.length > 5) return { type: 'unix', path: place.slice(5) };
	const tcp = /^tcp:(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(place);
	const port = Number(tcp?.[3]);
	if (!tcp || port > 65535) throw new QmpAddressError('syntax', text, 'unix:PATH or tcp:HOST:PORT');
	const host = tcp[1] ?? tcp[2] ?? '';
	if (!isLoopback(host)) throw new QmpAddressError('not-loopback', text, 'a loopback address');
	return { type: 'tcp', host, port };
}
