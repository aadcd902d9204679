/** A machine with SEV in this process, and the host that runs a guest owner's launch on it. */
import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { spa } from '@cvm/layout';
import { createSevMachine, type SevMachine, statusName } from '@cvm/sev-hw';
import { CHIP_ID_SIZE, COMMANDS, CONFIG_ES, type CommandName, PLATFORM_CHAIN_SIZE, TMR_SIZE } from '@cvm/sev-hw/abi';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { SEV_CERT_SIZE } from '@cvm/sev-hw/owner';
import type { Folder } from './owner-cli.js';

type Fields = Record<string, number | bigint | Uint8Array>;
interface Codec {
	readonly size: number;
	encode(fields: Fields): Uint8Array;
	decode(data: Uint8Array): Fields;
}

const MIB = 2 ** 20;
const BUFFER_AT = 0xf0000;
const API = { major: 0, minor: 24, build: 15 };

/** A launched guest. */
export interface Guest {
	readonly handle: number;
	/** What LAUNCH_MEASURE answered. */
	readonly measurement: Uint8Array;
}

export class Host {
	readonly #machine: SevMachine;
	/** The version that measurements name. */
	readonly api = API;
	#free = 2 * MIB;

	constructor(chipSeed: string) {
		const random = seededRandom(`machine ${chipSeed}`);
		this.#machine = createSevMachine({ dramBytes: 8 * MIB, provider: nodeProvider, random, chipSeed, version: API });
		this.must('INIT', { flags: CONFIG_ES, tmrPaddr: BigInt(MIB), tmrLength: TMR_SIZE });
		this.#machine.wbinvd();
		this.must('DF_FLUSH');
	}

	#put(data: Uint8Array): bigint {
		const at = this.#free;
		this.#free += Math.ceil(data.length / 4096) * 4096;
		this.#machine.dram.set(data, at);
		return BigInt(at);
	}

	#at(address: bigint, length: number): Uint8Array {
		return new Uint8Array(this.#machine.dram.slice(Number(address), Number(address) + length));
	}

	/** Runs a command. @returns its status by name */
	command(name: CommandName, fields: Fields = {}): { status: string; out: Fields } {
		const rule = COMMANDS[name];
		if (!('buffer' in rule)) return { status: statusName(this.#machine.psp.submit(rule.id, spa(0))), out: {} };
		const codec = rule.buffer as unknown as Codec;
		this.#machine.dram.set(codec.encode(fields), BUFFER_AT);
		const status = statusName(this.#machine.psp.submit(rule.id, spa(BUFFER_AT)));
		return { status, out: codec.decode(this.#at(BigInt(BUFFER_AT), codec.size)) };
	}

	must(name: CommandName, fields?: Fields): Fields {
		const { status, out } = this.command(name, fields);
		if (status !== 'SUCCESS') throw new Error(`${name}: expected SUCCESS, got ${status}`);
		return out;
	}

	#answer(name: CommandName, address: string, length: string, size: number, fields: Fields = {}): Uint8Array {
		const at = this.#put(new Uint8Array(size));
		this.must(name, { ...fields, [address]: at, [length]: size });
		return this.#at(at, size);
	}

	chipId = (): Uint8Array => this.#answer('GET_ID', 'idPaddr', 'idLen', CHIP_ID_SIZE);

	pekCsr = (): Uint8Array => this.#answer('PEK_CSR', 'csrPaddr', 'csrLen', SEV_CERT_SIZE);

	importPek(pek: Uint8Array, oca: Uint8Array): string {
		const [pekPaddr, ocaPaddr] = [this.#put(pek), this.#put(oca)];
		return this.command('PEK_CERT_IMPORT', { pekPaddr, pekLen: pek.length, ocaPaddr, ocaLen: oca.length }).status;
	}

	/** PDH and PEK ‖ OCA ‖ CEK, as the chip exports them. */
	certificates(): { pdh: Uint8Array; chain: Uint8Array } {
		const [pdhPaddr, certsPaddr] = [
			this.#put(new Uint8Array(SEV_CERT_SIZE)),
			this.#put(new Uint8Array(PLATFORM_CHAIN_SIZE)),
		];
		this.must('PDH_CERT_EXPORT', { pdhPaddr, pdhLen: SEV_CERT_SIZE, certsPaddr, certsLen: PLATFORM_CHAIN_SIZE });
		return { pdh: this.#at(pdhPaddr, SEV_CERT_SIZE), chain: this.#at(certsPaddr, PLATFORM_CHAIN_SIZE) };
	}

	/** Launches a guest with the owner's blobs, up to its measurement. `asid` as the policy wants it: low ones are SEV-ES. */
	launch(o: {
		dhCert: Uint8Array;
		session: Uint8Array;
		policy: number;
		asid: number;
		memory: readonly Uint8Array[];
		saveAreas?: readonly Uint8Array[];
	}): Guest {
		const { dhCert, session, policy, asid } = o;
		const [dhCertPaddr, sessionPaddr] = [this.#put(dhCert), this.#put(session)];
		const lengths = { dhCertLen: dhCert.length, sessionLen: session.length };
		const handle = Number(this.must('LAUNCH_START', { policy, dhCertPaddr, sessionPaddr, ...lengths })['handle']);
		this.must('ACTIVATE', { handle, asid });
		for (const data of o.memory)
			this.must('LAUNCH_UPDATE_DATA', { handle, paddr: this.#put(data), length: data.length });
		for (const area of o.saveAreas ?? [])
			this.must('LAUNCH_UPDATE_VMSA', { handle, paddr: this.#put(area), length: 4096 });
		return { handle, measurement: this.#answer('LAUNCH_MEASURE', 'paddr', 'length', 48, { handle }) };
	}

	injectSecret({ handle }: Guest, header: Uint8Array, payload: Uint8Array): string {
		const [hdrPaddr, transPaddr] = [this.#put(header), this.#put(payload)];
		const guestPaddr = this.#put(new Uint8Array(payload.length));
		const lengths = { hdrLen: header.length, transLen: payload.length, guestLen: payload.length };
		return this.command('LAUNCH_SECRET', { handle, hdrPaddr, transPaddr, guestPaddr, ...lengths }).status;
	}

	attest({ handle }: Guest, mnonce: Uint8Array): Uint8Array {
		return this.#answer('ATTESTATION', 'paddr', 'length', 208, { handle, mnonce });
	}
}

const keyServer = createKeyServer(nodeProvider);
export const ASK_ARK = keyServer.askArk();
const ceks = new Map<string, Uint8Array>();

/** The CEK of a host's chip as the key server signs it. */
export function cekOf(host: Host): Uint8Array {
	const id = host.chipId();
	const key = Buffer.from(id).toString('hex');
	const cek = ceks.get(key) ?? keyServer.cek(id);
	ceks.set(key, cek);
	return cek.slice();
}

/** Writes what the chip exports and the key server adds. @returns the files: PDH, PEK ‖ OCA ‖ CEK, signed CEK, ASK ‖ ARK */
export function writeCertificates(host: Host, folder: Folder): string[] {
	const { pdh, chain } = host.certificates();
	return [
		folder.write('pdh.cert', pdh),
		folder.write('cert_chain.cert', chain),
		folder.write('cek.cert', cekOf(host)),
		folder.write('ask_ark.cert', ASK_ARK),
	];
}
