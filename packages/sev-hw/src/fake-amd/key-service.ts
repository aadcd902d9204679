import { fromHex } from '@cvm/layout';
import type { KeyServer } from './key-server.js';

/** What a key service answers to a request. */
export interface KeyServiceAnswer {
	/** HTTP status: 200, 400, 404 or 405. */
	readonly status: number;
	readonly contentType: string;
	/** A certificate, or one line of text. */
	readonly body: Uint8Array;
}

const ID_DIGITS = 128;
const CEK_PATH = '/cek/id/';
/** Where sev-tool downloads ASK ‖ ARK (`src/sevcore.h`), and where its readme and virtee/sev say they come from. */
const ASK_ARK_PATH = /^\/(developer\/eula\/sev|wp-content\/resources)\/ask_ark_(naples|rome|milan)\.cert$/;

/**
 * Answers a request as `kdsintf.amd.com` and AMD's download site do, at their paths, for the tools that ask there:
 * virtee/sevctl (`src/main.rs`) and AMDESE/sev-tool (`src/utilities.h`). Every certificate is of the fake manufacturer,
 * whichever product the path names.
 */
export function answerKeyRequest(server: KeyServer, method: string, path: string): KeyServiceAnswer {
	if (method !== 'GET' && method !== 'HEAD') return refusal(405, 'method: expected GET or HEAD');
	if (ASK_ARK_PATH.test(path)) return certificate(server.askArk());
	if (!path.startsWith(CEK_PATH)) return refusal(404, 'path: expected /cek/id/<chip id> or ask_ark_<product>.cert');
	const digits = path.slice(CEK_PATH.length);
	if (digits.length !== ID_DIGITS || /[^0-9a-f]/i.test(digits)) {
		return refusal(400, `chip id: expected ${ID_DIGITS} hex digits, got ${digits.length} characters`);
	}
	return certificate(server.cek(fromHex(digits)));
}

const certificate = (body: Uint8Array): KeyServiceAnswer => ({
	status: 200,
	contentType: 'application/octet-stream',
	body,
});

const refusal = (status: number, line: string): KeyServiceAnswer => ({
	status,
	contentType: 'text/plain; charset=us-ascii',
	body: Uint8Array.from(`${line}\n`, (c) => c.charCodeAt(0)),
});
