/** What is private to the guest shows up nowhere that a host, a network or a log can see. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildFirmwareImage, SECRET_AREA } from '@cvm/ovmf-mh';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Fleet, type TestHost } from './hosts.js';
import { type Guest, guestOptions, prepare } from './migration.js';
import { GuestOwner } from './owner.js';
import { RawMonitor } from './raw-monitor.js';
import { Relay } from './relay.js';

const fleet = new Fleet();
const monitors: RawMonitor[] = [];
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-canary-'));
});
afterEach(async () => {
	for (const monitor of monitors.splice(0)) monitor.close();
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const ascii = (text: string): Buffer => Buffer.from(text, 'latin1');
/** Given by the owner, in the secret area. */
const SECRET = ascii('<canary: the key to the disk 01>');
/** Part of the measured firmware, which the launch encrypts where it lies. */
const FIRMWARE = ascii('<canary: in the firmware image!>');
const FIRMWARE_AT = 0x1008;
/** Where the secret itself begins: behind the table's header and the entry's. */
const SECRET_AT = SECRET_AREA.base + 40;
/** In the first vCPU's slice: from here on something is looked for that the guest itself has made. */
const WORK_AT = 0x2100000;

const guest: Guest = { workload: 'random', steps: 200_000, memory: '40M' };

function firmwareFile(): string {
	const image = buildFirmwareImage();
	expect(
		image.subarray(FIRMWARE_AT, FIRMWARE_AT + FIRMWARE.length).every((b) => b === 0 || b === 0xff),
		'free space',
	).toBe(true);
	image.set(FIRMWARE, FIRMWARE_AT);
	const path = join(folder, 'firmware.bin');
	writeFileSync(path, image);
	return path;
}

/** Everything of a host that is not the guest's: places by name. */
type Places = Record<string, Uint8Array>;

/** A file, or text that says that there is none. */
const file = (path: string): Uint8Array => new Uint8Array(readFileSync(path));

/** Which canaries stand where, even in part: 16 bytes in a row are enough. */
function findings(places: Places, canaries: ReadonlyMap<string, Buffer>): string[] {
	return Object.entries(places).flatMap(([place, bytes]) => {
		const haystack = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
		return [...canaries]
			.filter(([, canary]) => {
				const parts = Array.from({ length: canary.length / 16 }, (_, i) => canary.subarray(16 * i, 16 * (i + 1)));
				// As it is, and as text would carry it.
				const forms = parts.flatMap((part) => [
					part,
					ascii(part.toString('base64').slice(0, 20)),
					ascii(part.toString('hex')),
				]);
				return forms.some((needle) => haystack.includes(needle));
			})
			.map(([name]) => `${name} in ${place}`);
	});
}

/** A host with a recorded monitor and a serial log. */
async function start(name: string, options: readonly string[]): Promise<{ host: TestHost; monitor: RawMonitor }> {
	const socket = join(folder, `${name}.qmp`);
	const logs = ['-serial', `file:${join(folder, `${name}.log`)}`, '-qmp', `unix:${socket},server,nowait`];
	const host = await fleet.start(name, [...options, ...logs]);
	const monitor = await RawMonitor.connect(socket);
	monitors.push(monitor);
	return { host, monitor };
}

const bytesAt = (memory: Uint8Array, at: number, length = 32): Buffer => Buffer.from(memory.subarray(at, at + length));

interface Course {
	readonly places: Places;
	readonly canaries: ReadonlyMap<string, Buffer>;
}

/** One guest's whole life: launched, filled, watched, moved by a migration that fails and by one that does not. */
async function live(sealed: boolean): Promise<Course> {
	// Targets know the firmware that anybody has; what is special in this guest's arrives with it.
	const options = guestOptions(guest);
	const support = ['-machine', 'q35,confidential-guest-support=sev0'];
	const owner = sealed ? await GuestOwner.open(fleet, folder, 0) : undefined;
	const source = await start('source', [
		...options,
		'-bios',
		firmwareFile(),
		...(owner ? [...support, ...owner.options] : []),
		'-S',
	]);
	const object = sealed ? [...support, '-object', 'sev-guest,id=sev0,policy=0'] : [];
	const places: Places = {};
	const canaries = new Map([['firmware', FIRMWARE]]);
	const errors: string[] = [];
	const refused = async (monitor: RawMonitor, command: string, args: object) => {
		const answer = await monitor.execute(command, args);
		expect(answer).toHaveProperty('error');
		errors.push(JSON.stringify(answer));
	};

	if (owner) {
		await source.monitor.execute('sev-inject-launch-secret', await owner.seal(source.host, SECRET));
		canaries.set('secret', SECRET);
	}
	await source.monitor.execute('cont');
	await source.host.reached(20_000);
	await source.monitor.execute('stop');
	// The proof that the canaries are in the guest, through the debug command that its policy allows.
	const memory = join(folder, 'memory.bin');
	expect(await source.monitor.execute('x-guest-memsave', { block: 'pc.ram', filename: memory })).toEqual({
		return: {},
	});
	const ram = file(memory);
	if (owner) expect(bytesAt(ram, SECRET_AT)).toEqual(SECRET);
	let at = WORK_AT;
	while (bytesAt(ram, at, 16).filter((b) => b === 0).length > 2) at += 16;
	canaries.set('work', bytesAt(ram, at, 16));
	expect(canaries.get('work')).toHaveLength(16);
	expect(await source.monitor.execute('x-guest-memsave', { block: 'pc.bios', filename: memory })).toEqual({
		return: {},
	});
	expect(bytesAt(file(memory), FIRMWARE_AT)).toEqual(FIRMWARE);
	rmSync(memory);
	places['DRAM of the stopped source'] = Uint8Array.from(source.host.host.dram);
	const saved = join(folder, 'pmemsave.bin');
	await source.monitor.execute('pmemsave', { val: SECRET_AREA.base, size: SECRET_AREA.size, filename: saved });
	places['pmemsave of the secret area'] = file(saved);
	await source.monitor.execute('cont');

	// Everything that can be refused is, first.
	await refused(source.monitor, 'x-guest-memsave', { block: 'pc.ram', filename: join(folder, 'running.bin') });
	await refused(source.monitor, 'sev-inject-launch-secret', {
		'packet-header': 'AAAA',
		secret: 'AAAA',
		gpa: SECRET_AREA.base,
	});
	await refused(source.monitor, 'pmemsave', { val: -1, size: 16, filename: saved });
	await refused(source.monitor, 'migrate', { uri: 'tcp:nowhere' });

	const first = await start('first', [...options, ...object, '-incoming', 'defer']);
	const firstRelay = await Relay.open(await prepare(source.host, first.host), { cutAt: 2 ** 22, record: true });
	await source.monitor.execute('migrate', { uri: firstRelay.uri });
	expect((await source.host.migrationEnd()).status).toBe('failed');
	errors.push((await first.host.host.ended).line ?? '');
	places['DRAM of the target that was cut off'] = first.host.host.dram;
	places['the stream that was cut'] = Buffer.concat(firstRelay.passed);

	const target = await start('target', [...options, ...object, '-incoming', 'defer']);
	const relay = await Relay.open(await prepare(source.host, target.host), { record: true });
	await source.monitor.execute('migrate', { uri: relay.uri });
	await source.host.event((event) => event === 'STOP');
	places['DRAM of the source at stop-and-copy'] = Uint8Array.from(source.host.host.dram);
	expect(await source.host.migrationEnd()).toMatchObject({ status: 'completed' });
	await source.monitor.execute('query-migrate');
	places['the stream'] = Buffer.concat(relay.passed);
	places['DRAM of the source afterwards'] = source.host.host.dram;
	await target.monitor.execute('stop');
	await target.monitor.execute('query-status');
	await target.monitor.execute('x-guest-memsave', { block: 'pc.ram', filename: memory });
	if (owner) expect(bytesAt(file(memory), SECRET_AT)).toEqual(SECRET);
	places['DRAM of the target'] = target.host.host.dram;

	for (const { host, monitor } of [source, first, target]) {
		places[`monitor of ${host.name}`] = monitor.transcript;
		places[`serial log of ${host.name}`] = file(join(folder, `${host.name}.log`));
		places[`warnings of ${host.name}`] = ascii(host.warnings.join('\n'));
		places[`events of ${host.name}`] = ascii(JSON.stringify(host.events));
	}
	places['error texts'] = ascii(errors.join('\n'));
	expect(errors).toHaveLength(5);
	expect(places['monitor of source']?.length).toBeGreaterThan(1000);
	expect(places['the stream']?.length).toBeGreaterThan(2 ** 22);
	return { places, canaries };
}

describe('private memory', () => {
	it('of an encrypted guest is nowhere in the clear outside of it', async () => {
		const { places, canaries } = await live(true);
		expect([...canaries.keys()]).toEqual(['firmware', 'secret', 'work']);
		expect(findings(places, canaries)).toEqual([]);
	});

	it('of a plain guest is found by the same search: it would be seen', async () => {
		const { places, canaries } = await live(false);
		const found = findings(places, canaries);
		for (const place of [
			'DRAM of the stopped source',
			'DRAM of the source at stop-and-copy',
			'DRAM of the target',
			'the stream',
		]) {
			expect(found).toContain(`firmware in ${place}`);
		}
		expect(found).toContain('work in DRAM of the stopped source');
	});

	it('is not shown to a host whose guest forbids debugging, and the refusal tells nothing', async () => {
		const owner = await GuestOwner.open(fleet, folder, 1);
		const support = ['-machine', 'q35,confidential-guest-support=sev0'];
		const { host, monitor } = await start('source', [...guestOptions(guest), ...support, ...owner.options, '-S']);
		await monitor.execute('sev-inject-launch-secret', await owner.seal(host, SECRET));
		const filename = join(folder, 'memory.bin');
		const refusal = {
			error: { class: 'GenericError', desc: expect.stringMatching(/^DBG_DECRYPT ret=-5 fw_error=7 /) },
		};
		expect(await monitor.execute('x-guest-memsave', { block: 'pc.ram', filename })).toEqual(refusal);
		expect(await monitor.execute('x-guest-digest')).toEqual(refusal);
		const places = { file: file(filename), monitor: monitor.transcript, dram: host.host.dram };
		expect(findings(places, new Map([['secret', SECRET]]))).toEqual([]);
	});
});
