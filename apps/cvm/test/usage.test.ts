/**
 * The section "Usage" of QEMU v2 patch 12/12 (docs/confidential-guest-live-migration.rst, August 2021), typed as it is written:
 * `cvm host` in the place of ${QEMU}, the target's address in the place of the example's, and a guest in the place of the dots.
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { buildFirmwareImage } from '@cvm/ovmf-mh';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { HostProcess } from '../src/demo/host-process.js';
import { stepsOf } from '../src/demo/migrate.js';
import { GuestOwner } from '../src/demo/owner.js';
import { migrationEnd, moreSteps } from './guests.js';
import { PATIENCE, PROGRAM } from './processes.js';

// A host is a process of the program that is running: here that is the bundle, not the test runner.
process.argv[1] = PROGRAM;

const POLICY = 0;
/** The first two command lines of the section, without the dots; both machines have them. */
const BOTH = ['-smp 5,mirrorvcpus=1', '-fw_cfg name=opt/ovmf/PcdSevIsMigrationHelper,string=0'];
/** The third, of the target. */
const TARGET = ['-fw_cfg name=opt/ovmf/PcdSevIsMigrationTarget,string=1'];
/** The dots: memory, and a guest that has work to do. */
const DOTS = [
	'-machine q35,confidential-guest-support=sev0',
	'-m 64M',
	'-fw_cfg name=opt/cvm/workload,string=random',
	'-fw_cfg name=opt/cvm/steps,string=2000000',
];
/** The socket at which a person types, beside the test's own. */
const typedAt = (name: string): string => join(folder, `${name}-typed.qmp`);
const words = (lines: readonly string[]): string[] => lines.flatMap((line) => line.split(' '));

let folder: string;
let owner: GuestOwner;
const hosts = new Set<HostProcess>();
const sockets: Socket[] = [];
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-usage-'));
	owner = new GuestOwner();
});
afterEach(async () => {
	for (const socket of sockets.splice(0)) socket.destroy();
	await Promise.all([...hosts].map((host) => host.quit()));
	hosts.clear();
	rmSync(folder, { recursive: true, force: true });
});

async function start(name: string, lines: readonly string[], more: readonly string[] = []): Promise<HostProcess> {
	const chip = ['-platform', join(folder, `chip-${name}`)];
	const typed = ['-qmp', `unix:${typedAt(name)},server,nowait`];
	const host = await HostProcess.start(name, join(folder, `${name}.qmp`), [
		...words(lines),
		...more,
		...chip,
		...typed,
	]);
	hosts.add(host);
	return host;
}

/** A machine of the section, whose guest its owner measured and gave the migration secret: of that the section says nothing. */
async function startGuest(name: string, lines: readonly string[]): Promise<HostProcess> {
	const probe = await start(name, ['-machine none -S']);
	const session = owner.openSession(await owner.examine(probe.monitor, name), POLICY, folder, name);
	hosts.delete(probe);
	await probe.quit();
	const files = `dh-cert-file=${session.dhCertFile},session-file=${session.sessionFile}`;
	const host = await start(name, [...lines, ...DOTS, '-S'], ['-object', `sev-guest,id=sev0,policy=${POLICY},${files}`]);
	const { measure } = await owner.verifyLaunch(host.monitor, session, POLICY, [buildFirmwareImage()]);
	await owner.injectSecret(host.monitor, session, measure, { text: 'disk', helped: true });
	await host.monitor.execute('cont');
	return host;
}

/** Types text at a host's QMP socket. @returns the answer to the last command in it */
async function type(host: HostProcess, text: string): Promise<unknown> {
	const socket = connect(typedAt(host.label));
	sockets.push(socket);
	socket.write(`{ "execute": "qmp_capabilities" }${text}`);
	let answers = 0;
	for await (const line of createInterface(socket)) {
		const said = JSON.parse(line) as Record<string, unknown>;
		if ('error' in said || ('return' in said && ++answers === 2)) {
			socket.destroy();
			return said;
		}
	}
	throw new Error(`${host.label}: expected an answer, got the end`);
}

async function freePort(): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as { port: number };
	server.close();
	await once(server, 'close');
	return port;
}

it.each([
	['and the helper starts with the migration', ''],
	['and the helper was started before', '{ "execute": "start-migration-handler" }'],
])('a guest migrates by what the document says, %s', async (_, before) => {
	const [source, target] = await Promise.all([startGuest('source', BOTH), startGuest('target', [...BOTH, ...TARGET])]);
	await vi.waitFor(async () => expect(Math.min(...(await stepsOf(source)))).toBeGreaterThan(0), PATIENCE);
	if (before !== '') {
		for (const host of [source, target]) expect(await type(host, before)).toEqual({ return: {} });
	}
	const port = await freePort();
	expect(
		await type(
			target,
			`{ "execute": "start-migrate-incoming",
      "arguments": { "uri": "tcp:0.0.0.0:${port}" } }`,
		),
	).toEqual({ return: {} });
	expect(
		await type(
			source,
			`{ "execute": "migrate",
      "arguments": { "uri": "tcp:127.0.0.1:${port}" } }`,
		),
	).toEqual({ return: {} });
	expect(await migrationEnd(source)).toMatchObject({ status: 'completed' });
	const states = await Promise.all([source, target].map((host) => host.monitor.execute('query-status')));
	expect(states).toMatchObject([
		{ status: 'postmigrate', running: false },
		{ status: 'running', running: true },
	]);
	// Four main vCPUs for the guest, and it goes on where it arrived.
	expect(await stepsOf(target)).toHaveLength(4);
	await moreSteps(target);
	expect(source.complaints).toBe('');
	const warning = /^warning: tcp:0\.0\.0\.0:\d+: [^\n]*loopback interface only: 127\.0\.0\.1$/;
	await vi.waitFor(() => expect(target.complaints).toMatch(warning), PATIENCE); // through a pipe
});
