import { request } from 'node:http';
import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { join } from '../../test/fake-platform.js';
import { asKey } from '../certificates/amd-certificate.js';
import { readSevCertificate, verifySevCertificate } from '../certificates/sev-certificate.js';
import { chipIdentity, createKeyServer, fakeArk, fakeAsk } from '../fake-amd/index.js';
import { type RunningKeyServer, startKeyServer } from './key-server.js';

const provider = nodeProvider;
const chip = chipIdentity(provider, 'chip');
const id = toHex(chip.id);
let server: RunningKeyServer;
beforeAll(async () => {
	server = await startKeyServer({ provider });
});
afterAll(() => server.close());

/** A request without the niceties of `fetch`, which would mend a path. */
const ask = (path: string, method = 'GET') =>
	new Promise<{ status: number; type: string; body: Buffer }>((resolve, reject) => {
		const sent = request({ host: '127.0.0.1', port: server.port, path, method }, (response) => {
			const parts: Buffer[] = [];
			response.on('data', (part) => parts.push(part));
			response.on('end', () => {
				const type = response.headers['content-type'] ?? '';
				resolve({ status: response.statusCode ?? 0, type, body: Buffer.concat(parts) });
			});
		});
		sent.once('error', reject);
		sent.end();
	});

describe('the key server over HTTP', () => {
	it('listens on loopback', () => {
		expect(server.url).toBe(`http://127.0.0.1:${server.port}`);
	});

	it.each([
		['sevctl: upper case', id.toUpperCase()],
		['sev-tool: lower case', id],
	])('gives the CEK of a chip to %s', async (_, digits) => {
		const { status, type, body } = await ask(`/cek/id/${digits}`);
		expect([status, type]).toEqual([200, 'application/octet-stream']);
		const cek = Uint8Array.from(body);
		expect(cek).toEqual(createKeyServer(provider).cek(chip.id));
		expect(verifySevCertificate(provider, cek, asKey(fakeAsk))).toBe(0);
		expect(readSevCertificate(cek).publicKey).toEqual(provider.p384.publicKey(chip.cekPrivateKey));
	});

	it.each(['naples', 'rome', 'milan'])('gives the fake root for %s too, at both paths', async (product) => {
		for (const folder of ['developer/eula/sev', 'wp-content/resources']) {
			const { status, body } = await ask(`/${folder}/ask_ark_${product}.cert`);
			expect(status).toBe(200);
			expect(Uint8Array.from(body)).toEqual(join(fakeAsk, fakeArk));
		}
	});

	it('answers HEAD without a body', async () => {
		const { status, body } = await ask(`/cek/id/${id}`, 'HEAD');
		expect([status, body.length]).toEqual([200, 0]);
	});

	it.each([
		['an id too short', `/cek/id/${id.slice(1)}`, 400, 'chip id: expected 128 hex digits, got 127 characters\n'],
		['an id too long', `/cek/id/${id}0`, 400, 'chip id: expected 128 hex digits, got 129 characters\n'],
		[
			'an id that is no hex',
			`/cek/id/${'g'.repeat(128)}`,
			400,
			'chip id: expected 128 hex digits, got 128 characters\n',
		],
		['no id', '/cek/id/', 400, 'chip id: expected 128 hex digits, got 0 characters\n'],
		['another path', '/vcek/v1/Milan/cert_chain', 404, 'path: expected /cek/id/<chip id> or ask_ark_<product>.cert\n'],
		['another product', '/developer/eula/sev/ask_ark_bergamo.cert', 404, 'path: expected'],
		['a path out of the tree', '/developer/eula/sev/../ask_ark_naples.cert', 404, 'path: expected'],
		['nothing', '/', 404, 'path: expected'],
	])('refuses %s with one line', async (_, path, status, line) => {
		const answer = await ask(path);
		expect([answer.status, answer.type]).toEqual([status, 'text/plain; charset=us-ascii']);
		expect(answer.body.toString().startsWith(line)).toBe(true);
		expect(answer.body.toString().split('\n')).toHaveLength(2);
	});

	it('refuses other methods', async () => {
		const { status, body } = await ask(`/cek/id/${id}`, 'POST');
		expect([status, body.toString()]).toEqual([405, 'method: expected GET or HEAD\n']);
	});

	it('refuses a port that is taken, and frees its own', async () => {
		await expect(startKeyServer({ provider, port: server.port })).rejects.toMatchObject({ code: 'EADDRINUSE' });
		const other = await startKeyServer({ provider });
		await other.close();
		const again = await startKeyServer({ provider, port: other.port });
		expect(again.port).toBe(other.port);
		await again.close();
	});
});
