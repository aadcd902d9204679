import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import type { PageTransport } from '../src/firmware/handler/index.js';
import { HelperStatus } from '../src/mailbox/abi.js';
import { MAILBOX, pageOf, running } from './handler-rig.js';

const PAGE = 0x300000;
const none = new Uint8Array();
const KEY = new Uint8Array(32).fill(0x61);
const iv = (gpa: bigint): Uint8Array => new Uint8Array(BigUint64Array.of(gpa, 0n).buffer, 0, 12);

/** A key that everybody knows, and the address for an IV: what a proof of concept may be. The header is the tag. */
const proofOfConcept: PageTransport = {
	seal: (gpa, page) => {
		const sealed = nodeProvider.gcmSeal(KEY, iv(gpa), none, page);
		page.set(sealed.subarray(0, 4096));
		return sealed.subarray(4096);
	},
	open: (gpa, header, page) => {
		const opened = nodeProvider.gcmOpen(KEY, iv(gpa), none, Uint8Array.of(...page, ...header));
		if (opened !== undefined) page.set(opened);
		return opened !== undefined;
	},
};

describe('a transport of the posted handler’s builder', () => {
	it('seals a page with its header, and opens it at the same address in another machine', () => {
		const [source, target] = [
			running({ transport: proofOfConcept }),
			running({ transport: proofOfConcept, seed: 'b' }),
		];
		const page = pageOf(3);
		source.poke(PAGE, page);
		const { header, headerLength, body } = source.host.save(PAGE);
		expect([header.length, headerLength]).toEqual([16, 16]);
		expect([...body, ...header]).toEqual([...nodeProvider.gcmSeal(KEY, iv(BigInt(PAGE)), none, page)]);
		// It was sealed in a copy.
		expect(source.plain(PAGE, 4096)).toEqual(page);
		expect(target.host.load(PAGE, header, body)).toBe(HelperStatus.success);
		expect(target.plain(PAGE, 4096)).toEqual(page);
	});

	it('refuses what is not authentic with MH_AUTH_ERR, places nothing, and goes on', () => {
		const rig = running({ transport: proofOfConcept });
		rig.poke(PAGE, pageOf(3));
		rig.poke(PAGE + 4096, pageOf(4));
		const saved = rig.host.save(PAGE);
		const [header, body] = [saved.header.slice(), saved.body.slice()];
		expect(rig.host.load(PAGE + 4096, header, body)).toBe(-2);
		expect(rig.host.load(PAGE, header.subarray(1), body)).toBe(-2);
		expect(rig.host.load(PAGE, header, pageOf(9))).toBe(-2);
		expect(rig.plain(PAGE + 4096, 4096)).toEqual(pageOf(4));
		expect(rig.host.load(PAGE, header, body)).toBe(0);
	});

	it('reads no header that is longer than a VMM takes', () => {
		const rig = running({ transport: proofOfConcept });
		const { ram } = rig;
		const view = new DataView(ram.bytes.buffer, ram.bytes.byteOffset + MAILBOX);
		rig.poke(PAGE, pageOf(3));
		const saved = rig.host.save(PAGE);
		const [header, body] = [saved.header.slice(), saved.body.slice()];
		rig.hooks.afterBlock = (label) => {
			if (label === 'mh.rfc.transfer') view.setUint32(0x800, 1025, true);
		};
		expect(rig.host.load(PAGE, header, body)).toBe(-2);
		rig.hooks.afterBlock = undefined;
		expect(rig.host.load(PAGE, header, body)).toBe(0);
	});

	it('may not make a longer one', () => {
		const rig = running({ transport: { seal: () => new Uint8Array(1025), open: () => true } });
		expect(() => rig.host.save(PAGE)).toThrow('page header: expected at most 1024 bytes, got 1025');
	});

	it('is none by default: the page goes as it is, and the header stays', () => {
		const rig = running();
		rig.poke(PAGE, pageOf(3));
		const { header, body } = rig.host.save(PAGE);
		expect([header.length, body]).toEqual([0, pageOf(3)]);
	});
});
